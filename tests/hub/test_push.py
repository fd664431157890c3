"""Uploads, against an API that is not there: what is asked of it, and what its errors become."""

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from prealign.errors import ConfigError, RunError
from prealign.hub import push as module
from prealign.hub.push import push


class FakeApi:
    """Notes what it is asked; raises what it is given."""

    calls: list = []  # noqa: RUF012
    problem: Exception | None = None

    def __init__(self, **settings):
        pass

    def create_repo(self, repo, **settings):
        FakeApi.calls.append(("create", repo, settings))

    def upload_folder(self, **settings):
        if FakeApi.problem:
            raise FakeApi.problem
        FakeApi.calls.append(("upload", settings))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(module, "HfApi", FakeApi)
    FakeApi.calls, FakeApi.problem = [], None
    return FakeApi


def test_a_new_repository_is_private_and_old_data_goes_with_the_same_commit(api, tmp_path):
    where = push(tmp_path, "ada/notes", kind="dataset", replaces=("data/*",))
    assert where == "https://huggingface.co/datasets/ada/notes"
    (created, repo, how), (uploaded, what) = api.calls
    assert (created, repo, how["private"], how["exist_ok"]) == ("create", "ada/notes", True, True)
    assert uploaded == "upload"
    assert (what["repo_id"], what["repo_type"]) == ("ada/notes", "dataset")
    assert (what["folder_path"], what["delete_patterns"]) == (tmp_path, ["data/*"])
    assert "*.part" in what["ignore_patterns"]


def test_public_is_only_public_when_asked(api, tmp_path):
    assert push(tmp_path, "ada/m", kind="model", public=True) == "https://huggingface.co/ada/m"
    assert api.calls[0][2]["private"] is False
    assert api.calls[1][1]["delete_patterns"] is None


@pytest.mark.parametrize(
    "repo", ["notes", "a/b/c", "/b", "a/", "a b/c", "../x", "a/..", "a/b--c", "a/b.git", "-a/b", ""]
)
def test_another_name_than_owner_and_name_is_refused_before_anything(api, tmp_path, repo):
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        push(tmp_path, repo, kind="dataset")
    assert api.calls == []


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set, so nothing was sent"),
        (LocalTokenNotFoundError("x"), "you are not logged in"),
        (ConnectionError("no route\nto host"), r"not wholly, uploaded \(ConnectionError: no route"),
        (RuntimeError("half way"), "it goes on"),
    ],
)
def test_what_goes_wrong_is_one_line_that_says_how_to_go_on(api, tmp_path, problem, message):
    api.problem = problem
    with pytest.raises(RunError, match=message) as caught:
        push(tmp_path, "ada/notes", kind="dataset")
    assert "\n" not in str(caught.value)
    assert "is whole: give the same command again" in str(caught.value)


def test_offline_says_so_without_a_fake(tmp_path):
    with pytest.raises(RunError, match="--push ada/notes: "):  # tests set HF_HUB_OFFLINE
        push(tmp_path, "ada/notes", kind="dataset")
