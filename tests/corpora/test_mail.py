import mailbox
from email.message import EmailMessage

import pytest

from prealign.corpora.mail import Mail, post
from prealign.corpora.rejects import Rejects
from prealign.errors import ConfigError, DataError

TEXT = (
    "Hello Ben,\r\n\r\nOn Monday Ben <ben@example.org> wrote:\r\n> I keep it.\r\n> > Why?\r\n\r\n"
    "That is wrong.\r\nHe said:\r\nnothing.\r\n-- \r\nAda, Mill Street\r\n"
)


def test_quoted_lines_are_dropped_with_the_line_that_says_whose_they_are():
    found = post(TEXT, id="m")
    assert found.text == "Hello Ben,\nThat is wrong.\nHe said:\nnothing.\n"
    assert [span.mode for span in found.spans] == ["human", "human"]


def test_or_kept_as_spans_of_their_own():
    found = post(TEXT, id="m", quotes="keep")
    pieces = [found.text[s.start_char : s.end_char] for s in found.spans]
    assert pieces == [
        "Hello Ben,\n", "> I keep it.\n> > Why?\n", "That is wrong.\nHe said:\nnothing.\n",
    ]  # fmt: skip


def test_a_post_without_words_of_its_own_is_none():
    assert post("> all\n> quoted\n", id="m", quotes="keep") is None
    assert post("\n\n-- \nAda\n", id="m") is None


def message(subject, text):
    found = EmailMessage()
    found["Subject"] = subject
    found["From"] = "ada@example.org"
    found.set_content(text)
    return found


def test_a_box_is_read_message_by_message_and_threads_stay_together(tmp_path):
    box = mailbox.mbox(tmp_path / "all.mbox")
    for one in (message("Purse", "Found é.\n"), message("Re: RE: Purse", "> Found\nGood.\n"),
                message("Re: Purse", "> only\n")):  # fmt: skip
        box.add(one)
    box.close()
    rejects = Rejects()
    found = list(Mail(path=tmp_path / "all.mbox")(rejects))
    assert [document.text for document in found] == ["Found é.\n", "Good.\n"]
    assert {document.source for document in found} == {"all.mbox/Purse"}
    assert rejects.counts == {"no text of its own": 1}


def test_files_of_a_folder_are_read_too(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.eml").write_bytes(bytes(message("One", "Hi.\n")))
    (found,) = Mail(path=tmp_path)()
    assert found.text == "Hi.\n"
    assert found.id == f"{tmp_path.name}/in/a.eml"


def test_what_is_no_mail_says_so(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        list(Mail(path=tmp_path / "no")())
    with pytest.raises(DataError, match="holds no message"):
        list(Mail(path=tmp_path)())
    with pytest.raises(ConfigError, match=r"Mail\.quotes='x': expected drop or keep"):
        Mail(path=tmp_path, quotes="x")


@pytest.mark.parametrize("charset", ["unknown-8bit", '""', "idna", "rot13"])
def test_one_message_in_no_known_charset_does_not_end_the_reading(tmp_path, charset):
    head = f"Subject: One\nContent-Type: text/plain; charset={charset}\n\nHi.\n"
    (tmp_path / "a.eml").write_bytes(head.encode())
    (tmp_path / "b.eml").write_bytes(bytes(message("Two", "Hi.\n")))
    rejects = Rejects()
    (found,) = Mail(path=tmp_path)(rejects)
    assert found.id.endswith("b.eml")
    assert rejects.counts == {"no text of its own": 1}
