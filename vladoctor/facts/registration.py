"""draft"""
from __future__ import annotations
from dataclasses import dataclass
from functools import lru_cache
import numpy as np

_PARTS = {
    "identity": (False, False, False),
    "rot90": (True, True, False),
    "rot180": (False, True, True),
    "rot270": (True, False, True),
    "flip-vertical": (False, True, False),
    "flip-horizontal": (False, False, True),
    "transpose": (True, False, False),
    "anti-transpose": (True, True, True),
}
ELEMENTS = tuple(_PARTS)
_NAMES = {p: n for n, p in _PARTS.items()}

def apply(element, frame):
    t, v, h = _PARTS[element]
    if t: frame = np.swapaxes(frame, 0, 1)
    return frame[::-1 if v else 1, ::-1 if h else 1]

def compose(first, then):
    t1, v1, h1 = _PARTS[first]; t2, v2, h2 = _PARTS[then]
    if t2: v1, h1 = h1, v1
    return _NAMES[(t1 ^ t2, v1 ^ v2, h1 ^ h2)]

def inverse(element):
    return {"rot90": "rot270", "rot270": "rot90"}.get(element, element)

G = 64; COARSE = 16; FINE = 32; FINAL = 48
SCALES = tuple(np.round(np.geomspace(1.0, 0.5, 11), 4))

def sampler(n_src, n_out, start, width):
    """triangle-kernel resampling weights; start,width arrays (...,) -> (..., n_out, n_src)"""
    start = np.asarray(start, np.float32)[..., None]; width = np.asarray(width, np.float32)[..., None]
    centre = (start + (np.arange(n_out, dtype=np.float32) + 0.5) / n_out * width) * n_src - 0.5
    radius = np.maximum(1.0, width * n_src / n_out)
    w = np.maximum(0.0, 1.0 - np.abs(np.arange(n_src, dtype=np.float32) - centre[..., None]) / radius[..., None])
    s = w.sum(-1, keepdims=True)
    return w / np.maximum(s, 1e-6)

@lru_cache(maxsize=256)
def coarse_bank(scale):
    n = 1 + int(np.ceil((1 - scale) / (scale / COARSE) - 1e-6))
    offs = np.linspace(0, 1 - scale, n) if n > 1 else np.zeros(1)
    return offs, sampler(G, COARSE, offs, np.full(n, scale)).reshape(n * COARSE, G)

@lru_cache(maxsize=64)
def full_sampler(n_src, n_out):
    return sampler(n_src, n_out, 0.0, 1.0)

def grey(frame, size):
    g = np.asarray(frame, np.float32).mean(-1) if frame.ndim == 3 else np.asarray(frame, np.float32)
    return full_sampler(g.shape[0], size) @ g @ full_sampler(g.shape[1], size).T

def zn(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)

def register_all(raw, image, iters=8):
    """-> scores (8,), windows (8,4) top,height,left,width in raw frame"""
    g = grey(raw, G); im = grey(image, G)
    tm = np.stack([apply(inverse(e), im) for e in ELEMENTS])   # candidates in raw orientation
    # coarse
    R = full_sampler(G, COARSE)
    t16 = zn((R @ tm @ R.T).reshape(8, -1))
    best = np.full(8, -2.0); win = np.zeros((8, 4), np.float32)
    for s in SCALES:
        offs, B = coarse_bank(float(s)); n = len(offs)
        W = (B @ g @ B.T).reshape(n, COARSE, n, COARSE).transpose(0, 2, 1, 3).reshape(n * n, -1)
        sc = t16 @ zn(W).T
        k = sc.argmax(1); v = sc[np.arange(8), k]
        better = v > best
        best = np.where(better, v, best)
        iy, ix = np.divmod(k, n)
        cand = np.stack([offs[iy], np.full(8, s), offs[ix], np.full(8, s)], 1)
        win = np.where(better[:, None], cand, win)
    coarse = best.copy(), win.copy()
    # refine
    M = FINE
    R = full_sampler(G, M); t = zn((R @ tm @ R.T).reshape(8, -1))
    p = win.astype(np.float32); bestp = p.copy(); bests = np.full(8, -2.0)
    ramp = (np.arange(M, dtype=np.float32) + 0.5) / M
    for it in range(iters + 1):
        Sy = sampler(G, M, p[:, 0], p[:, 1]); Sx = sampler(G, M, p[:, 2], p[:, 3])
        W = Sy @ g @ Sx.transpose(0, 2, 1)
        sc = (zn(W.reshape(8, -1)) * t).sum(-1)
        better = sc > bests
        bests = np.where(better, sc, bests); bestp = np.where(better[:, None], p, bestp)
        if it == iters: break
        gy, gx = np.gradient(W, axis=(1, 2))
        gy *= M / p[:, 1, None, None]; gx *= M / p[:, 3, None, None]
        J = np.stack([gy, gy * ramp[:, None], gx, gx * ramp[None, :]], 1).reshape(8, 4, -1)
        A = np.concatenate([J, -t[:, None], -np.ones_like(t)[:, None]], 1)
        N = A @ A.transpose(0, 2, 1)
        b = -(A @ W.reshape(8, -1, 1))[..., 0]
        N[:, np.arange(6), np.arange(6)] *= 1.001
        N[:, np.arange(6), np.arange(6)] += 1e-3
        d = np.linalg.solve(N, b[..., None])[..., 0][:, :4]
        p = p + np.clip(d, -0.1, 0.1)
        p[:, [1, 3]] = np.clip(p[:, [1, 3]], 0.45, 1.02)
        p[:, [0, 2]] = np.clip(p[:, [0, 2]], -0.02, 1.02 - p[:, [1, 3]])
    return bests, bestp, coarse, tm, g

def final_scores(g, tm, p, M, hp=0):
    from scipy.ndimage import gaussian_filter
    n = g.shape[0]
    Sy = sampler(n, M, p[:, 0], p[:, 1]); Sx = sampler(n, M, p[:, 2], p[:, 3])
    W = Sy @ g @ Sx.transpose(0, 2, 1)
    R = full_sampler(tm.shape[-1], M); T = R @ tm @ R.T
    if hp:
        W = W - gaussian_filter(W, (0, hp, hp)); T = T - gaussian_filter(T, (0, hp, hp))
    return (zn(W.reshape(len(p), -1)) * zn(T.reshape(len(p), -1))).sum(-1)
