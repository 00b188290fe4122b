"""How many threads torch gets, and how they wait."""

import sys

import pytest
from mutations import Bug

from metaloop.cli import main
from metaloop.cli.cores import quota, settle


def machine(root, cgroup, **files):
    """A root folder with a process's cgroups, and files of cgroups: {"a/cpu.max": text}."""
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CPU = "sys/fs/cgroup/cpu"
V1 = "4:memory:/job\n3:cpu,cpuacct:/job\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "want"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 0.5),
        (V1, {f"{CPU}/job/cpu.cfs_quota_us": "300000\n", f"{CPU}/job/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "what\n"}, None),
    ],
)  # fmt: skip
def test_a_cgroups_quota(tmp_path, cgroup, files, want):
    assert quota(machine(tmp_path, cgroup, **files)) == want


def test_no_cgroup_is_no_quota(tmp_path):
    assert quota(tmp_path) is None


def test_what_the_user_set_stays(tmp_path):
    root = machine(tmp_path, "0::/\n", **{"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    free: dict[str, str] = {}
    settle(free, root)
    assert free == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "100"}, {"KMP_BLOCKTIME": "0"}):
        theirs = {**own, "OMP_NUM_THREADS": "7"}
        settle(theirs, root)
        assert theirs == {**own, "OMP_NUM_THREADS": "7"}


def test_the_command_line_settles_it_before_torch_is_loaded(monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    seen = []
    monkeypatch.setattr("metaloop.cli.settle", lambda environ: seen.append("torch" in sys.modules))
    main(["recipes", "--no-such-option"])
    assert not seen  # torch is there: too late
    monkeypatch.delitem(sys.modules, "torch")
    main(["recipes", "--no-such-option"])
    assert seen == [False]


BUGS = [
    Bug("threads spin though nobody asked for it", "cli/cores.py",
        ('"OMP_WAIT_POLICY"] = "PASSIVE"', '"OMP_WAIT_POLICY"] = "ACTIVE"'), "test_what_the_user_set_stays"),
    Bug("the quota of an outer cgroup is overlooked", "cli/cores.py",
        ("(inner, *inner.parents)", "(inner,)"), "test_a_cgroups_quota"),
]  # fmt: skip
