"""What no source reads, by what it is called or how it is laid out, and the one thing to do."""

from __future__ import annotations

import os
import re

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.untrusted import visible

_ARRAYS = "write its arrays by numpy.savez('data.npz', X=…, y=…), and give that"
_TABLE = "write it as a table in .csv"
_PACKED = "packed; unpack it, and give the folder or the file that was in it"
_PICKLED = "a pickle, which may run code and is never loaded; write a data frame by "
_PICKLED += "frame.to_csv('data.csv', index=False), arrays by numpy.savez('data.npz', X=…, y=…)"
_BY_CLASS = "give a folder with one folder per class"
_NAMED = "file names and labels, with a column for each"
_KINDS = (
    ((".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz"), _PACKED),
    ((".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"), _PACKED),
    ((".xlsx", ".xls", ".xlsm", ".ods"), "a spreadsheet; save the sheet of the examples as .csv"),
    ((".h5", ".hdf5"), f"a file of HDF5; {_ARRAYS}"),
    ((".mat",), f"a file of MATLAB; {_ARRAYS}"),
    ((".npy",), f"one array, without labels; {_ARRAYS}"),
    ((".pkl", ".pickle", ".joblib"), _PICKLED),
    ((".rds", ".rda", ".rdata"), f"a file of R; {_TABLE} there, by write.csv"),
    ((".dta", ".sav", ".sas7bdat"), f"a file of a statistics program; {_TABLE} there"),
    ((".arff",), f"a file of Weka; {_TABLE} there"),
    ((".db", ".sqlite", ".sqlite3"), f"a database; {_TABLE}"),
    ((".arrow", ".feather"), "a file of Arrow; write it as .parquet"),
    ((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".wav"), f"a single example; {_BY_CLASS}"),
    ((".xml", ".yaml", ".yml"), f"no table of examples; {_BY_CLASS}, or a .csv of {_NAMED}"),
)  # fmt: skip
"""Ends of names of files, and what these are, with what to do."""
_ADDRESS, _OF_WINDOWS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://"), re.compile(r"[A-Za-z]:[\\/]")
_HUB = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(datasets/)?([\w.-]+(?:/[\w.-]+)?)"
    r"/?(?:(?:tree|blob|resolve)/.*|[?#].*)?"
)
_OF_HUB = {"task": True, "model": False}
"""Whether an address of a hub has to be of a data set, for what it is given."""


def foreign(path: str | os.PathLike[str]) -> str:
    """What a file is that no source reads, by the end of its name, with a cure; else nothing.

    >>> foreign("scores.xlsx")
    'is a spreadsheet; save the sheet of the examples as .csv'
    """
    name = os.fspath(path).lower()
    return next((f"is {told}" for ends, told in _KINDS if name.endswith(ends)), "")


def refuse_address(text: str, place: str, what: str = "task") -> None:
    """Refuse an address in place of a path: nothing is fetched but by libraries of hubs.

    So is a path of Windows that is not there.
    """
    told, cure = "an address, and nothing is fetched from there", ""
    if _OF_WINDOWS.match(place) and not os.path.exists(place):
        told, cure = "a path of Windows, and not there", "give the path that it has here"
    elif not _ADDRESS.match(place):
        return
    elif (on_hub := _HUB.fullmatch(place)) and _OF_HUB.get(what) == bool(on_hub[1]):
        org, _, name = on_hub[2].rpartition("/")
        of_timm = org == "timm" and what == "model"
        cure = f"write {'timm' if of_timm else 'hf'}:{name if of_timm else on_hub[2]}"
    elif place.lower().startswith("file://"):
        cure = "give the path alone"
    elif on_hub and what in _OF_HUB:
        cure = f"it is a {'data set' if on_hub[1] else 'model'}, so name it as such"
    elif what == "model":
        cure = "fetch it, and write hf:FOLDER, or <hub>:<name>=FILE for weights"
    cure = cure or "fetch it, and give the file or folder where it is then"
    raise InvalidInputError(f"{what} {visible(text)!r} is {told}; {cure}")
