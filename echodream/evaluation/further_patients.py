"""Further test patients: recordings in a separate store, of patients who are in no split of the study."""

from pathlib import Path

from echodream.errors import UserError
from echodream.store import Store


def open_test_store(real: Store, further: str | None) -> Store:
    """The store whose split TEST is the reference: ``real``, or the patients of ``further`` who are not in ``real``.

    Patients are identified by their PatientID. If the path ``further`` does not exist, it is ignored. Raises
    ``UserError`` if all patients of ``further`` are also in ``real``.
    """
    if further is None or not Path(further).is_dir():
        return real
    store = Store(further, kind="video")
    if store.dataset.synthetic:
        raise UserError(f"further={further} holds synthetic videos: give a store of real patients, or further=null")
    known = set(real.table["PatientID"].astype(str))
    rows = store.table[~store.table["PatientID"].astype(str).isin(known)]
    if not len(rows):
        raise UserError(f"further={further} has only patients who are in {real.root}: give a store of other patients")
    store.table = rows.assign(Split="TEST").reset_index(drop=True)
    return store
