"""Events that are in somebody's log fold as they always did."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.fold_version import FOLD_VERSION
from sampler_service.curriculum.presets import PRESETS
from tests.recorded_log import FOLDER, fold, read

# float32 columns, on processors whose exp and log differ in the last bit.
CLOSE = {"rtol": 3e-6, "atol": 1e-6}


def test_every_fold_version_has_its_record() -> None:
    assert {path.stem for path in FOLDER.glob("fold_version_*.npz")} == {
        f"fold_version_{version}" for version in range(1, FOLD_VERSION + 1)
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_the_recorded_log_folds_as_it_did_when_it_was_recorded(preset: str) -> None:
    """If it does not, this release would fold a log otherwise than the replicas of the last one."""
    with np.load(FOLDER / "fold_version_1.npz") as stored:
        recorded = {name: stored[name] for name in stored.files if name.startswith(f"{preset}/")}
    folded = fold(read(), preset)
    assert recorded, f"{preset} is not recorded: python -m tests.recorded_log"
    for name, values in recorded.items():
        np.testing.assert_allclose(folded[name.partition("/")[2]], values, **CLOSE, err_msg=name)


def test_the_record_notices_a_changed_formula() -> None:
    with np.load(FOLDER / "fold_version_1.npz") as stored:
        recorded = stored["mopps/alphas"]
    assert np.ptp(recorded) > 1.0
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(fold(read(), "bots")["alphas"], recorded, **CLOSE)
