"""The cluster that other tests stand on: it does what a real one does, and leaves nothing behind."""

from __future__ import annotations

import os
import pathlib
import socket
import time

import pytest

from tests.slurm.cluster import Cluster, devcluster, free_port, start, wait_for


def processes_of(folder: pathlib.Path) -> list[str]:
    """Command lines of the processes that know a cluster's folder."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # it has just ended, or is a zombie
        if f"{folder}/".encode() in words:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    job = cluster.submit("sleep 60")
    again = cluster.devcluster("up")
    assert (again.returncode, again.stdout) == (0, f"export SLURM_CONF={cluster.folder}/etc/slurm.conf\n")
    assert cluster.state(job) in ("PENDING", "RUNNING")
    cluster.read("scancel", job)
    other = cluster.devcluster("up", "--nodes", "9")
    assert other.returncode == 2 and "--nodes 4, not 9" in other.stderr


def test_status_names_daemons_and_queue(cluster: Cluster) -> None:
    status = cluster.devcluster("status")
    assert status.returncode == 0 and "DEAD" not in status.stdout
    for word in ("munged up", "slurmctld up", "slurmd-n4 up", "main*", "high", "gate", "JOBID"):
        assert word in status.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("up", "--nodse", "3"), "unknown option --nodse"),
        (("up", "--nodes", "many"), "expected a whole number"),
        (("up", "--nodes"), "needs a value"),
        (("up", "--dir", "/etc"), "is not empty and not a devcluster's"),
        (("upp",), "unknown command upp"),
        (("kill", "n1", "--dir", "/nowhere"), "not up in /nowhere"),
    ],
)
def test_wrong_commands_are_one_line(args: tuple[str, ...], said: str) -> None:
    done = devcluster(*args)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_taken_port_is_refused(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    port = cluster.read("scontrol", "show", "config").split("SlurmctldPort")[1].split()[1]
    done = devcluster("up", "--dir", str(tmp_path / "second"), "--port", port)
    assert done.returncode == 2 and f"port {port} is taken" in done.stderr
    assert not (tmp_path / "second").exists()


def test_nodes_have_names_and_know_each_other(cluster: Cluster) -> None:
    said = cluster.read("srun", "--nodes=3", "sh", "-c", "hostname; getent hosts n4 g1 | wc -l")
    assert sorted(said.split()) == ["2", "2", "2", *sorted(said.split())[3:]]
    assert len(set(said.split())) == 4


def test_jobs_may_submit_jobs_where_the_site_allows_it(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    cluster.submit(f"sbatch --partition=gate --output={tmp_path}/%j --wrap hostname")
    wait_for(lambda: any(path.read_text() == "g1\n" for path in tmp_path.iterdir()), "the inner job, on g1")


def test_preemption_requeues(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    cluster.read("scontrol", "update", "PartitionName=main", "GraceTime=0")
    low = cluster.submit(
        f"echo start >> {tmp_path}/starts; sleep 100", "--nodes=4", "--exclusive", "--requeue"
    )
    wait_for((tmp_path / "starts").exists, "the first start")
    cluster.submit("sleep 1", "--nodes=4", "--exclusive", "--partition=high")
    wait_for(lambda: len((tmp_path / "starts").read_text().split()) == 2, "the second start", 90)
    assert "Restarts=1" in cluster.read("scontrol", "show", "job", low)
    cluster.read("scancel", low)
    cluster.read("scontrol", "update", "PartitionName=main", "GraceTime=10")


def test_a_job_outlives_its_slurmd(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    job = cluster.submit(
        f"touch {tmp_path}/on; sleep 6; echo $SLURM_RESTART_COUNT > {tmp_path}/end", "--nodelist=n3"
    )
    wait_for((tmp_path / "on").exists, "the job")
    assert cluster.devcluster("kill", "n3").returncode == 0
    assert "slurmd-n3 DEAD" in cluster.devcluster("status").stdout
    wait_for((tmp_path / "end").exists, "its end without a slurmd")
    assert cluster.devcluster("start", "n3").returncode == 0
    assert cluster.wait(job, "COMPLETED", "FAILED", "NODE_FAIL") == "COMPLETED"
    assert (tmp_path / "end").read_text().strip() == ""


def test_a_lost_node_takes_its_jobs_along_and_comes_back(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    script = f"echo x >> {tmp_path}/on; setsid sleep 4321 & sleep 100"
    job = cluster.submit(script, "--nodelist=n2", "--requeue")
    wait_for((tmp_path / "on").exists, "the job")
    assert cluster.devcluster("lose", "n2").returncode == 0
    wait_for(
        lambda: not any("sleep 4321" in line for line in processes_of(cluster.folder)), "its processes' end"
    )
    # The controller would find out by itself, after half a minute.
    cluster.read("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=lost")
    cluster.wait(job, "PENDING")
    assert cluster.devcluster("up").returncode == 0
    wait_for(lambda: len((tmp_path / "on").read_text().split()) == 2, "the second start")
    cluster.read("scancel", job)


def test_a_killed_controller_remembers_its_queue(cluster: Cluster) -> None:
    saved = cluster.folder / "state" / "job_state"
    before = saved.stat().st_mtime_ns
    job = cluster.submit("sleep 60", "--hold")
    wait_for(lambda: saved.stat().st_mtime_ns > before, "its saving, some seconds later")
    assert cluster.devcluster("kill", "slurmctld").returncode == 0
    assert "slurmctld DEAD" in cluster.devcluster("status").stdout
    assert cluster.devcluster("start", "slurmctld").returncode == 0
    assert cluster.state(job) == "PENDING"
    cluster.read("scancel", job)


def test_limits_of_a_strict_cluster(strict_cluster: Cluster, cluster: Cluster) -> None:
    assert cluster.call("sbatch", "--test-only", "--array=0-10", "--wrap=true").returncode == 0
    for options, said in (
        (["--array=0-10"], "Invalid job array specification"),
        (["--array=5-14"], "Invalid job array specification"),
        (["--account=nobody"], "Invalid account"),
        (["--partition=nowhere"], "invalid partition"),
        (["--gres=gpu:3"], "Requested node configuration is not available"),
    ):
        refused = strict_cluster.call("sbatch", *options, "--wrap=true")
        assert refused.returncode != 0 and said in refused.stderr, refused.stderr


def test_an_array_runs_and_accounting_knows_it(strict_cluster: Cluster) -> None:
    job = strict_cluster.read(
        "sbatch", "--parsable", "--wait", "--array=0-9", "--output=/dev/null", "--wrap=true"
    )
    command = ("sacct", "--noheader", "--allocations", f"--jobs={job}", "--format=JobID,Account,State")

    def finished() -> bool:
        rows = [line.split() for line in strict_cluster.read(*command).splitlines()]
        expected = [[f"{job}_{index}", "lab", "COMPLETED"] for index in range(10)]
        return sorted(rows) == sorted(expected)

    wait_for(finished, "ten rows in the accounting")


def test_jobs_of_a_strict_cluster_may_not_submit(strict_cluster: Cluster) -> None:
    refused = strict_cluster.call("srun", "sbatch", "--wrap=true")
    assert refused.returncode != 0 and "Access/permission denied" in refused.stderr


def test_nodes_of_a_strict_cluster_share_no_local_folder(strict_cluster: Cluster) -> None:
    local = strict_cluster.folder.parent / "local"
    said = strict_cluster.read(
        "srun", "--nodes=2", "sh", "-c", f"touch {local}/$(hostname); sleep 1; ls {local}"
    )
    assert sorted(said.split()) == ["n1", "n2"] and not list(local.iterdir())


def test_fake_gpus_are_given_to_jobs(strict_cluster: Cluster) -> None:
    assert strict_cluster.read("srun", "--gres=gpu:2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0,1"


def test_preemption_of_a_strict_cluster_ends_the_job(strict_cluster: Cluster, tmp_path: pathlib.Path) -> None:
    low = strict_cluster.submit(f"touch {tmp_path}/on; sleep 100", "--nodes=2", "--exclusive")
    wait_for((tmp_path / "on").exists, "the job")
    strict_cluster.submit("true", "--nodes=2", "--exclusive", "--partition=high")
    assert strict_cluster.wait(low, "PREEMPTED", "PENDING", "COMPLETED") == "PREEMPTED"


def test_down_leaves_nothing_running(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    small = start(tmp_path / "small", nodes=1)
    small.submit(f"trap '' TERM; setsid sleep 1234 & touch {tmp_path}/on; sleep 1234")
    wait_for((tmp_path / "on").exists, "the job")
    assert len(processes_of(small.folder)) > 5
    before = time.monotonic()
    assert small.devcluster("down").returncode == 0
    assert time.monotonic() - before < 30
    wait_for(lambda: not processes_of(small.folder), "the end of its processes", 5)
    assert (small.folder / "log" / "slurmctld.log").exists()
    assert small.devcluster("down").returncode == 0
    assert small.devcluster("status").returncode == 3
    assert cluster.devcluster("status").returncode == 0, "the neighbour must stay up"


def test_a_machine_without_namespaces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "stub" / "unshare"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    refused = devcluster(
        "up", "--dir", str(tmp_path / "a"), "--port", str(free_port()), "--no-submit-nodes", "1"
    )
    assert refused.returncode == 2 and "need namespaces" in refused.stderr
    assert not processes_of(tmp_path / "a")

    plain = start(tmp_path / "b", nodes=2)
    said = plain.read("srun", "--nodes=2", "sh", "-c", "hostname; echo $SLURMD_NODENAME")
    assert set(said.split()) == {socket.gethostname().split(".")[0], "n1", "n2"}
    assert "'lose' needs namespaces" in plain.devcluster("lose", "n1").stderr
    plain.submit(f"trap '' TERM; setsid sleep 2345 & touch {tmp_path}/on; sleep 2345")
    wait_for((tmp_path / "on").exists, "the job")
    assert plain.devcluster("down").returncode == 0
    wait_for(lambda: not processes_of(plain.folder), "the end of its processes", 5)


def test_free_ports_are_not_those_of_a_cluster(cluster: Cluster) -> None:
    taken = int(cluster.read("scontrol", "show", "config").split("SlurmctldPort")[1].split()[1])
    assert not taken <= free_port() < taken + 20
