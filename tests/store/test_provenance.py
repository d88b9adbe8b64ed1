"""What came out of a store is never put again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from daskref.connectors import SharedMemoryConnector
from daskref.objects.codec import encode
from daskref.store import Store


def test_a_frame_whose_text_lay_in_chunks_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    part = pd.DataFrame({"s": pd.Series(["one", "two"] * 500, dtype="str")})
    frame = pd.concat([part] * 3, ignore_index=True)
    connector = SharedMemoryConnector(spill_directory=tmp_path)
    with Store("chunks", connector) as store:
        # as if it had had another form when it was put
        reference = store.put_reference(frame, "of another form")
        found = store.get_reference(reference)
        assert encode(found).token == encode(frame).token
        again = store.provenance.relink(found)
        assert again is not None
        pd.testing.assert_frame_equal(store.get_reference(again), frame)
        found.loc[0, "s"] = "three"
        assert store.provenance.relink(found) is None
