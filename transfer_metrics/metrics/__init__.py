"""Transferability metrics: pure functions of a statistic, one family per file.

The table is all that names a metric beside its function, so that names are known without torch.
"""

NAMES = {
    "discriminant": ("lda", "ped", "sfda"),
    "emms": ("emms",),
    "etran": ("energy", "svd_regression"),
    "gbc": ("gbc",),
    "h_score": ("h_score",),
    "kernel_alignment": ("lfc", "parc"),
    "knn": ("knn",),
    "label_rate": ("label_rate",),
    "logme": ("logme",),
    "ncti": ("ncti_posterior", "ncti_rank", "ncti_spread"),
    "pactran": ("pactran_dirichlet", "pactran_gamma", "pactran_gaussian"),
    "probes": ("linear_probe", "ridge_probe"),
    "source_head": ("leep", "nce", "nleep", "soft_nce"),
    "transrate": ("conditional_coding_rate", "transrate"),
}
"""Metrics by their file."""
