"""The losses once more, as loops over plain numbers."""

import math


def policy_gradient(logp, old, mask, advantage, s, weight=None):
    """Return the loss of lists of lists; `s` is a `PolicyGradient`."""
    total, tokens, sequences = 0.0, 0, 0.0
    for i, row in enumerate(mask):
        own = [t for t, counted in enumerate(row) if counted]
        drift = [logp[i][t] - old[i][t] for t in own]
        w = 1.0 if weight is None else weight[i]

        def term(log_ratio, i=i, w=w):
            ratio = math.exp(log_ratio)
            low, high = 1 - s.clip_low, 1 + s.clip_high
            clipped = min(max(ratio, low), high)
            return -w * min(ratio * advantage[i], clipped * advantage[i])

        n = len(own)
        if s.ratio == "token":
            terms = [term(d) for d in drift]
        elif s.loss_type == "reinforce":
            terms = [term(sum(drift))]
        else:
            terms = [term(sum(drift) / max(n, 1))] * n
        total += sum(terms)
        tokens += n
        sequences += sum(terms) / max(n, 1)
    if s.loss_type == "grpo":
        return sequences / len(mask)
    if s.loss_type == "dapo":
        return total / max(tokens, 1)
    if s.loss_type == "dr_grpo":
        return total / (len(mask) * s.max_tokens)
    return total / len(mask)


def k3(logp, ref, mask):
    """Return the mean over tokens."""
    found = [
        math.exp(r - p) - (r - p) - 1
        for row, (ps, rs) in zip(mask, zip(logp, ref, strict=True), strict=True)
        for counted, p, r in zip(row, ps, rs, strict=True)
        if counted
    ]
    return sum(found) / max(len(found), 1)


def preference(chosen, rejected, ref_chosen, ref_rejected, beta, smooth):
    total = 0.0
    for c, r, rc, rr in zip(chosen, rejected, ref_chosen, ref_rejected, strict=True):
        x = beta * ((c - rc) - (r - rr))
        total += (1 - smooth) * math.log1p(math.exp(-x)) + smooth * math.log1p(math.exp(x))
    return total / len(chosen)


def softmax(logits):
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def top_kl(student, teacher, top, direction, support, tail):
    """Return the divergence at one place, from logits."""
    p, q = softmax(student), softmax(teacher)
    whose = q if support == "teacher" else p
    ids = sorted(range(len(whose)), key=lambda i: -whose[i])[:top]
    p, q = [p[i] for i in ids], [q[i] for i in ids]
    if tail:
        p, q = [*p, 1 - sum(p)], [*q, 1 - sum(q)]
    else:
        p, q = [a / sum(p) for a in p], [b / sum(q) for b in q]
    return kl(q, p) if direction == "forward" else kl(p, q)


def advantages(rewards, groups, scale):
    def deviation(values):
        if len(values) < 2:
            return 0.0
        mean = sum(values) / len(values)
        return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))

    found = []
    for reward, group in zip(rewards, groups, strict=True):
        own = [r for r, g in zip(rewards, groups, strict=True) if g == group and r is not None]
        if reward is None:
            found.append(0.0)
            continue
        gain = reward - sum(own) / len(own)
        if scale == "group":
            gain /= deviation(own) + 1e-4
        elif scale == "batch":
            gain /= deviation([r for r in rewards if r is not None]) + 1e-4
        found.append(gain)
    return found
