"""The metrics by their definitions, in sixty digits: nothing cancels, no rank is in doubt.

Plain and slow, for a hundred examples of a few features. Arrays are numpy's, of ``mpmath`` numbers;
a float64 goes in as the number that it is.
"""

from __future__ import annotations

import numpy as np
from mpmath import mp

mp.dps = 60


def exact(x):
    """An array of numbers as it is, without rounding."""
    return np.vectorize(lambda v: mp.mpf(float(v)), otypes=[object])(np.asarray(x))


def each(function, x):
    return np.vectorize(function, otypes=[object])(x)


def classes(y):
    return sorted(set(y.tolist()))


def mean(x):
    return x.sum(axis=0) / len(x)


def scatter(x):
    u = x - mean(x)
    return u.T.dot(u)


def eigen(s):
    """Eigenvalues, descending, and eigenvectors as columns."""
    values, vectors = mp.eigsy(mp.matrix(s.tolist()))
    order = list(range(len(s)))[::-1]
    v = np.array(vectors.tolist(), dtype=object)
    return np.array([values[i] for i in order], dtype=object), v[:, order]


def solve(a, b):
    b = b if b.ndim == 2 else b[:, None]
    inverse = mp.inverse(mp.matrix(a.tolist()))
    return np.array(inverse.tolist(), dtype=object).dot(b)


def logdet(a):
    return mp.log(mp.det(mp.matrix(a.tolist())))


def identity(n):
    return exact(np.eye(n))


def softmax(scores):
    powers = each(mp.exp, scores - scores.max(axis=1)[:, None])
    return powers / powers.sum(axis=1)[:, None]


def of_truth(p, y):
    return mean(p[np.arange(len(y)), y])


# --- coding rates --------------------------------------------------------------------------------


def rate(z, eps):
    return logdet(identity(z.shape[1]) + z.T.dot(z) / (len(z) * mp.mpf(eps))) / 2


def conditional_coding_rate(x, y, eps=1e-4):
    z = x - mean(x)
    return sum(rate(z[y == c], eps) for c in classes(y)) / len(classes(y))


def transrate(x, y, eps=1e-4):
    if eps == "auto":
        eps = mp.mpf(0.1) * scatter(x).trace() / len(x) / x.shape[1]
    return rate(x - mean(x), eps) - conditional_coding_rate(x, y, eps)


def label_rate(x, y):
    n, count = len(x), len(classes(y))
    total = scatter(x)
    scale = n / total.trace()
    within = sum(scatter(x[y == c]) for c in classes(y))
    chance, odds = mp.mpf(0), mp.mpf(1)
    for i, e in enumerate(elementary(scale * total, n - 1)):
        chance += e * odds
        odds *= mp.mpf(n - count - i) / (n - 1 - i) if i < n - count else 0
    return mp.log(chance) / 2 - logdet(identity(x.shape[1]) + scale * within) / 2


def elementary(matrix, most):
    """Elementary symmetric polynomials of the eigenvalues, by Faddeev and LeVerrier."""
    found, product = [mp.mpf(1)], identity(len(matrix)) * mp.mpf(0)
    for i in range(1, min(most, len(matrix)) + 1):
        sign = (-1) ** (i - 1)
        product = matrix.dot(product + identity(len(matrix)) * found[-1] * sign)
        found.append(product.trace() / i * sign)
    return found


# --- regression ----------------------------------------------------------------------------------


def log_evidence(sigma, h, t, log_ratio):
    """Per example, at ``α / β = exp(log_ratio)`` and the best β; σ and h of the eigenvectors."""
    n = len(t)
    ratio = mp.exp(log_ratio)
    energy = t.dot(t) - sum(b**2 / (s + ratio) for s, b in zip(sigma, h, strict=True))
    logs = sum(mp.log(1 + s / ratio) for s in sigma)
    return -(n * mp.log(energy / n) + logs + n + n * mp.log(2 * mp.pi)) / (2 * n)


def logme(x, y):
    total = mp.mpf(0)
    sigma, v = eigen(x.T.dot(x))
    kept = [i for i, s in enumerate(sigma) if s > sigma[0] * mp.mpf(10) ** -50]
    sigma, v = sigma[kept], v[:, kept]
    for c in classes(y):
        t = exact(y == c)
        h = v.T.dot(x.T.dot(t))
        with mp.workdps(30):
            low, high = mp.log(sigma[-1]) - 30, mp.log(sum(sigma)) + 30
            grid = [low + (high - low) * i / 300 for i in range(301)]
            values = [log_evidence(sigma, h, t, g) for g in grid]
            best = max(range(301), key=values.__getitem__)
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, 300)]
            for _ in range(60):  # golden section
                third = (high - low) * mp.mpf("0.381966")
                left, right = low + third, high - third
                if log_evidence(sigma, h, t, left) > log_evidence(sigma, h, t, right):
                    high = right
                else:
                    low = left
        total += log_evidence(sigma, h, t, (low + high) / 2)
    return total / len(classes(y))


def unexplained(x, t):
    """Residual sums of squares of each target, with an intercept."""
    u, w = x - mean(x), t - mean(t)
    return ((w - u.dot(solve(u.T.dot(u), u.T.dot(w)))) ** 2).sum(axis=0)


def emms(x, y):
    t = np.stack([exact(y == c) for c in classes(y)], axis=1)
    return -sum(unexplained(x, t) / ((t - mean(t)) ** 2).sum(axis=0)) / t.shape[1]


def svd_regression(x, t):
    return -unexplained(x, t[:, None])[0] / len(t)


def ridge_probe(x, y, strengths=tuple(10.0**e for e in range(-8, 4))):
    n = len(x)
    targets = np.stack([exact(y == c) for c in classes(y)], axis=1)
    u = x - mean(x)
    s = u.T.dot(u)
    unit = s.trace() / min(n - 1, x.shape[1])
    best = None
    for strength in sorted(strengths, reverse=True):
        lift = solve(s + mp.mpf(strength) * unit * identity(len(s)), u.T)
        leverage = (u * lift.T).sum(axis=1) + mp.mpf(1) / n
        errors = (targets - mean(targets) - u.dot(lift.dot(targets))) / (1 - leverage)[:, None]
        press = (errors**2).sum()
        hits = mp.mpf(int(((targets - errors).argmax(axis=1) == y).sum())) / n
        if best is None or press < best[0]:
            best = press, hits
    return best[1]


# --- scatter -------------------------------------------------------------------------------------


def between(x, y):
    return sum(
        (y == c).sum() * np.outer(mean(x[y == c]) - mean(x), mean(x[y == c]) - mean(x))
        for c in classes(y)
    )


def h_score(x, y, shrinkage="ledoit_wolf"):
    n, d = x.shape
    u = x - mean(x)
    s = scatter(x) / n
    a = mp.mpf(0)
    if shrinkage is not None:
        mu = s.trace() / d
        squares = (u**2).sum(axis=1)
        delta = ((s**2).sum()) / d - mu**2
        beta = ((squares**2).sum() / n - (s**2).sum()) / (d * n)
        a = min(beta / delta, mp.mpf(1))
        s = (1 - a) * s + a * mu * identity(d)
    divisor = n if shrinkage is None else n - 1
    return (1 - a) * solve(s, between(x, y) / divisor).trace()


def gbc(x, y, floor=1e-4):
    d = x.shape[1]
    total, parts = mp.mpf(0), [x[y == c] for c in classes(y)]
    variance = [max(scatter(p).trace() / len(p) / d, mp.mpf(floor)) for p in parts]
    for i, p in enumerate(parts):
        for j, q in enumerate(parts):
            if i != j:
                middle = (variance[i] + variance[j]) / 2
                b = ((mean(p) - mean(q)) ** 2).sum() / middle / 8
                b += d * mp.log(middle / mp.sqrt(variance[i] * variance[j])) / 2
                total -= mp.exp(-b)
    return total


def correlation(a, b):
    a, b = a - mean(a), b - mean(b)
    return a.dot(b) / mp.sqrt(a.dot(a) * b.dot(b))


def lfc(x, y):
    same = np.where(y[:, None] == y[None, :], 1, -1)
    return correlation(x.dot(x.T).ravel(), exact(same).ravel())


def parc(x, y):
    values, v = eigen(scatter(x))
    z = (x - mean(x)).dot(v) / each(mp.sqrt, values / len(x))
    z = z * each(mp.sign, (z**3).sum(axis=0))
    u = z - (z.sum(axis=1) / z.shape[1])[:, None]
    u = u / each(mp.sqrt, (u**2).sum(axis=1))[:, None]
    i, j = np.triu_indices(len(y), 1)
    distances = [mp.nint((1 - a) * 10**12) for a in (u[i] * u[j]).sum(axis=1)]
    _, place, count = np.unique(
        np.array([float(a) for a in distances]), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return 100 * correlation(exact(ranks), exact(y[i] != y[j]))


# --- discriminants -------------------------------------------------------------------------------


def within(x, y):
    return sum(scatter(x[y == c]) for c in classes(y)) / len(x)


def shrunk(s, lam, d):
    return (1 - lam) * s + lam * s.trace() / d * identity(len(s))


def fisher_lambda(x, y):
    return max(mp.exp(-5 * eigen(within(x, y))[0][0]), mp.mpf(1e-10))


def posterior(x, y, lam):
    u = x - mean(x)
    means = np.stack([mean(u[y == c]) for c in classes(y)])
    weights = solve(shrunk(within(x, y), lam, x.shape[1]), means.T)
    priors = [mp.log(mp.mpf(int((y == c).sum())) / len(y)) for c in classes(y)]
    return softmax(u.dot(weights) - (means.T * weights).sum(axis=0) / 2 + np.array(priors))


def lda(x, y, lam=None):
    return of_truth(posterior(x, y, fisher_lambda(x, y) if lam is None else lam), y)


def sfda(x, y):
    lam = fisher_lambda(x, y)
    p = softmax(posterior(x, y, lam))
    mixed = np.empty_like(x)
    for n, c in enumerate(y):
        others = sum(mean(x[y == k]) for k in classes(y) if k != c) / (len(classes(y)) - 1)
        mixed[n] = p[n, c] * x[n] + (1 - p[n, c]) * others
    return lda(mixed, y, lam)


def ped(x, y, nu=0.6, step=0.1, rounds=6):
    nu, step = mp.mpf(nu), mp.mpf(step)
    deviation = each(lambda v: max(mp.sqrt(v), mp.mpf(1e-3)), scatter(x).diagonal() / len(x))
    first = None
    for _ in range(rounds):
        z = x / deviation
        centre = {c: mean(z[y == c]) for c in classes(y)}
        radius = {c: mp.sqrt(scatter(z[y == c]).trace() / (y == c).sum()) for c in classes(y)}
        moves = {c: centre[c] * 0 for c in classes(y)}
        for i in classes(y):
            for j in classes(y):
                if i != j:
                    line = centre[i] - centre[j]
                    distance = mp.sqrt(line.dot(line))
                    force = max(nu * (radius[i] + radius[j]) - distance, mp.mpf(0))
                    moves[i] = moves[i] + min(step**2 * force / 2, force) * line / distance
        movement = sum(abs(m).sum() for m in moves.values())
        first = movement if first is None else first
        if movement <= first / 2:
            break
        x = (z + np.stack([moves[c] for c in y])) * deviation
    return sfda(x, y)


def principal(x):
    """As many components as there are features here, and NCTI's shrinkage."""
    values, v = eigen(scatter(x))
    lam = max(mp.exp(-sum(values[:32]) / (len(x) - 1)), mp.mpf(1e-10))
    return (x - mean(x)).dot(v), lam


def ncti_posterior(x, y):
    z, lam = principal(x)
    return of_truth(posterior(z, y, lam), y)


def ncti_rank(x, y):
    z, lam = principal(x)
    p = posterior(z, y, lam)
    total = mp.mpf(0)
    for c in classes(y):
        values = eigen(p[y == c].T.dot(p[y == c]))[0]
        total += sum(mp.sqrt(max(v, mp.mpf(0))) for v in values)
    return mp.log(total)


def ncti_spread(x, y):
    z, lam = principal(x)
    s_w = shrunk(within(z, y), lam, z.shape[1])
    s_t = shrunk(scatter(z) / len(z), lam, z.shape[1])
    values, v = eigen(s_w)
    root = v / each(mp.sqrt, values)  # root' s_w root = I
    _, w = eigen(root.T.dot(s_t - s_w).dot(root))
    projected = z.dot(root.dot(w[:, : len(classes(y)) - 1]))
    return sum(each(mp.sqrt, eigen(scatter(projected))[0]))


# --- fits and source heads -----------------------------------------------------------------------


def pactran_gaussian(x, y):
    """Newton's method on all weights, intercepts last."""
    n, d = x.shape
    size = len(classes(y))
    rows = np.hstack([x - mean(x), exact(np.ones((n, 1)))])
    penalty = np.array([mp.mpf(1) / n] * d + [mp.mpf(0)], dtype=object)
    targets = np.stack([exact(y == c) for c in classes(y)], axis=1)

    def loss(w):
        p = softmax(rows.dot(w))
        entropy = -mean(each(mp.log, (p * targets).sum(axis=1)))
        return p, entropy + (penalty[:, None] * w**2).sum() / 2

    w = exact(np.zeros((d + 1, size)))
    p, value = loss(w)
    for _ in range(100):
        gradient = rows.T.dot(p - targets) / n + penalty[:, None] * w
        blocks = [
            [
                (rows * (p[:, i] * ((i == j) - p[:, j]))[:, None]).T.dot(rows) / n
                + (np.diag(penalty) if i == j else 0)
                for j in range(size)
            ]
            for i in range(size)
        ]
        # Intercepts are fixed up to a constant, which a little penalty settles.
        hessian = np.block(blocks) + mp.mpf(10) ** -40 * identity((d + 1) * size)
        step = solve(hessian, gradient.T.ravel())[:, 0].reshape(size, d + 1).T
        length = mp.mpf(1)
        while loss(w - length * step)[1] > value and length > mp.mpf(10) ** -20:
            length /= 2
        w = w - length * step
        p, value = loss(w)
        if abs((gradient * step).sum()) < mp.mpf(10) ** -25:
            break
    spread = ((p - p**2).sum(axis=1) * (rows**2).sum(axis=1)).sum()
    return -(value + mp.mpf(50) * size / n * mp.log(1 + spread * n / (d * size)))


def energy(x, y):
    values = sorted(mp.log(mp.fsum(mp.exp(v) for v in row)) for row in x)
    count = max(1, len(x) // 200)
    return sum(values[:count]) / count


def xlogy(x, y):
    return x * mp.log(y) if x else mp.mpf(0)


def joint(p, y):
    return np.stack([p[y == c].sum(axis=0) for c in classes(y)])


def leep(p, y):
    table = joint(p, y)
    conditional = table / table.sum(axis=0)
    return mean(each(mp.log, (conditional[y] * p).sum(axis=1)))


def soft_nce(p, y):
    table = joint(p, y)
    sums = table.sum(axis=0)
    return sum(xlogy(t, t / s) for row in table for t, s in zip(row, sums, strict=True) if t) / len(
        y
    )


def nce(p, y):
    return soft_nce(exact(np.eye(p.shape[1])[p.argmax(axis=1)]), y)


def pactran_gamma(p, y):
    return _pactran(p, y, lambda a: each(mp.digamma, a), gamma=True)


def pactran_dirichlet(p, y):
    return _pactran(p, y, lambda a: each(mp.digamma, a) - each(mp.digamma, a.sum(axis=0)))


def _pactran(p, y, expected_log, gamma=False):
    n, size = len(p), len(classes(y))
    prior = np.array([mp.mpf(int((y == c).sum())) / n for c in classes(y)], dtype=object)
    q = p
    for _ in range(10):
        a = prior[:, None] + joint(q, y)
        weighted = p * each(mp.exp, expected_log(a))[y]
        q = weighted / weighted.sum(axis=1)[:, None]
    divergence = sum(xlogy(a, a / b) for a, b in zip(q.ravel(), p.ravel(), strict=True) if b)
    logs = each(mp.loggamma, a).sum() - a.shape[1] * each(mp.loggamma, prior).sum()
    if gamma:
        normaliser = each(mp.log, p.dot(a.sum(axis=0))).sum() - n
        return (logs - divergence - normaliser) / (n * size) - 1
    logs = logs - each(mp.loggamma, a.sum(axis=0)).sum() + a.shape[1] * mp.loggamma(prior.sum())
    return (logs - divergence) / (n * size)
