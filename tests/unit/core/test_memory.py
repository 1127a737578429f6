"""Memory is told on every system, also where the kernel has no files that tell it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from slimllm.core import memory, process_memory

CPU = torch.device("cpu")
BYTES = 200 * 2**20


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system without /proc/self."""
    for name in ("STATUS", "CLEAR", "GROUPS"):
        monkeypatch.setattr(process_memory, name, tmp_path / name)


def test_a_peak_is_told_after_its_memory_is_free_again() -> None:
    before, peak = process_memory.resident_mib(), memory.watch_peak(CPU)
    taken = torch.ones(BYTES, dtype=torch.uint8)
    del taken
    if not process_memory.high_water_mib():
        pytest.skip("the system tells no peak")
    assert 190 < peak() - before < 300
    assert memory.watch_peak(CPU)() < peak() + 1, "the next measurement begins anew"


@pytest.mark.usefixtures("no_files")
def test_without_a_peak_it_is_what_is_there_at_the_beginning_or_the_end() -> None:
    before, peak = process_memory.resident_mib(), memory.watch_peak(CPU)
    taken = torch.ones(BYTES, dtype=torch.uint8)
    assert 190 < peak() - before < 300
    del taken
    assert peak() >= before > 0
    assert 0 < memory.available_mib() <= psutil.virtual_memory().total / 2**20
    memory.give_back()


def test_no_group_gives_more_than_the_machine_has() -> None:
    assert 0 < memory.available_mib() <= psutil.virtual_memory().total / 2**20


@pytest.mark.usefixtures("no_files")
def test_where_no_system_tells_anything_there_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(psutil, "Process", fail)
    monkeypatch.setattr(psutil, "virtual_memory", fail)
    assert process_memory.resident_mib() == memory.watch_peak(CPU)() == 0
    assert memory.available_mib() == float("inf")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.usefixtures("no_files")
def test_what_others_of_the_group_hold_is_not_available(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit stands at the group around ours. Files that the system may drop do not count."""
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    root = tmp_path / "sys"
    around = root / ("memory" if version == 1 else "") / "around"
    (around / "ours").mkdir(parents=True)
    for folder, limit in ((around, 800), (around / "ours", 2**40)):
        (folder / names[0]).write_text("max" if limit == 2**40 and version == 2 else str(limit * 2**20))
        (folder / names[1]).write_text(str(700 * 2**20))
        (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {100 * 2**20}\n")
    monkeypatch.setattr(process_memory, "GROUP_ROOT", root)
    process_memory.GROUPS.write_text("4:memory:/around/ours\n" if version == 1 else "0::/around/ours\n")
    assert memory.available_mib() == 200
