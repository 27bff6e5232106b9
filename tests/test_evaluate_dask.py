"""Cases scored by the workers of a Dask cluster, of which one is killed."""

import os
import signal

import pytest
from test_evaluate import folders, run, tables

from jaxseg.evaluation import evaluate

distributed = pytest.importorskip("dask.distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # what the cluster warns of is not ours


@pytest.fixture(scope="module")
def client():
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_worker_that_is_killed_loses_no_case(client, tmp_path):
    p, g, _ = folders(tmp_path, 60)
    evaluate(p, g, num_classes=3, metrics="dice,hd95", out=tmp_path / "one")
    pids = client.run(os.getpid)
    done = []

    def kill_one(event):
        if event.kind == "case":
            done.append(event.text)
            if len(done) == 30:
                os.kill(next(iter(pids.values())), signal.SIGKILL)

    evaluate(
        p,
        g,
        num_classes=3,
        metrics="dice,hd95",
        out=tmp_path / "dask",
        executor=client.get_executor(),
        tell=kill_one,
    )
    assert len(done) == 60
    assert tables(tmp_path / "dask") == tables(tmp_path / "one")


def test_the_command_joins_a_scheduler(client, tmp_path):
    p, g, _ = folders(tmp_path, 4)
    done = run(
        "evaluate", p, g, "--num-classes", "3", "--out", tmp_path / "out",
        "--dask", client.scheduler_info()["address"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluate(p, g, num_classes=3, out=tmp_path / "one")
    cases = [(tmp_path / name / "cases.csv").read_bytes() for name in ("out", "one")]
    assert cases[0] == cases[1]


def test_a_case_that_kills_every_worker_is_listed(client, tmp_path, monkeypatch):
    p, g, _ = folders(tmp_path, 6)
    results = evaluate(
        p, g, num_classes=3, executor=Deadly(client.get_executor()), out=tmp_path / "out"
    )
    assert [case for case, _ in results.errors] == ["im002"]
    assert "KilledWorker" in results.errors[0][1]
    assert len(results.records) == 5


class Deadly:
    """An executor one of whose cases kills the worker that takes it."""

    def __init__(self, executor):
        self.executor = executor

    def submit(self, run, job):
        return self.executor.submit(kill if job.case == "im002" else run, job)


def kill(job):
    os.kill(os.getpid(), signal.SIGKILL)
