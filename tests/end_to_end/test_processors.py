"""The same base, file and training under other processors' kernels, in processes of their own.

OpenBLAS, on which numpy and scipy stand, holds kernels for many processors and picks one when it is
loaded; so do torch and what it stands on (oneDNN, MKL). An environment variable picks another one.
This reaches what another x86 processor would compute, not other compilers or another architecture.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import processor

from svfit_diffusion.concept import read_concept
from svfit_diffusion.training import sample_folder

SAMPLE = str(sample_folder().parent / "robot.safetensors")
TIMEOUT = 900  # seconds, on a machine with other things to do; 30 on one without
OPENBLAS = {  # the name to ask by -> the names that OpenBLAS may give what it took
    "Haswell": ("Haswell",),
    "Zen": ("Zen",),  # builds without it take Haswell's, which is tried anyway
    "SkylakeX": ("SkylakeX",),
    "Prescott": ("Prescott", "Katmai"),  # two names of one table
}
TORCH = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}  # threads wait, not spin
PROBE = (
    "import json, numpy, scipy.linalg\n"
    "from threadpoolctl import threadpool_info as info\n"
    "a = numpy.ones((70, 70)); scipy.linalg.svd(a @ a)\n"
    "found = {i['architecture'] for i in info() if i['internal_api'] == 'openblas'}\n"
    "print(json.dumps(sorted(found)))"
)


def environment(threads=1, **more):
    """Of a child process: these kernels and threads, and none of what this process was told."""
    ours = {name for kernels in TORCH.values() for name in kernels} | {"OPENBLAS_CORETYPE"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests)])
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return kept | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"} | PATIENT | counts | more


def took(kernel=None):
    """The architectures that OpenBLAS takes where asked for one; none where it cannot run."""
    asked = {"OPENBLAS_CORETYPE": kernel} if kernel else {}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment(**asked),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []


@pytest.fixture(scope="module")
def kernels():
    """The kernels of OPENBLAS that this build has and this processor runs."""
    found = [name for name, names in OPENBLAS.items() if set(took(name)) & set(names)]
    if len(found) < 2:
        pytest.skip(f"needs x86 builds of OpenBLAS with several kernels; here it is {took()}")
    return found


def run(folder, env, **order):
    """What a child process says it took."""
    folder.mkdir(parents=True, exist_ok=True)
    order = json.dumps({"folder": str(folder), "steps": 10} | order)
    command = [sys.executable, "-W", "ignore", processor.__file__, order]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def edits_apart(one, two):
    """The largest relative difference of an edit in two sets of bases; the first one ties deltas.

    one, two: "weight/rank/part" -> array, as processor.bases() makes them.
    """
    apart = []
    for key in sorted({key.rpartition("/")[0] for key in one}):
        groups = one[f"{key}/groups"]
        delta = np.random.default_rng(0).standard_normal(len(groups))
        for number in np.unique(groups):
            delta[groups == number] = delta[groups == number].mean() * (number > 0)
        edits = [
            (made[f"{key}/U"].astype(float) * delta) @ made[f"{key}/V"].astype(float).T
            for made in (one, two)
        ]
        apart.append(np.linalg.norm(edits[0] - edits[1]) / max(np.linalg.norm(delta), 1e-300))
    return max(apart)


def psnr(a, b):
    """Of pictures of 0 to 1, in dB; 200 for the same bits."""
    return -10 * np.log10(max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-20))


def test_another_kernel_takes_the_sample_and_makes_the_same_edits(kernels, tmp_path):
    here = set(took())
    name = next(name for name in kernels if not here & set(OPENBLAS[name]))
    env = environment(OPENBLAS_CORETYPE=name, **TORCH["default"])
    said = run(tmp_path, env, bases=True, files=[SAMPLE], steps=3)
    assert said["torch"] == "DEFAULT" and set(said["openblas"]) <= set(OPENBLAS[name])
    made = np.load(tmp_path / "pictures.npz")[SAMPLE]
    found = psnr(made, processor.pictures([SAMPLE], 3)[SAMPLE])
    apart = edits_apart(processor.bases(), np.load(tmp_path / "bases.npz"))
    print(f"{name}: edits within {apart:.1e}, PSNR {found:.0f} dB")
    assert apart <= 1e-6 and found >= 60


@pytest.fixture(scope="module")
def machines(kernels, tmp_path_factory):
    """Name -> (environment, folder): each OpenBLAS kernel with one thread and two, and torch's."""
    folder = tmp_path_factory.mktemp("machines")
    wanted = {
        f"{name}, {threads} threads": environment(threads, OPENBLAS_CORETYPE=name)
        for name in kernels
        for threads in (1, 2)
    } | {f"torch {name}": environment(**more) for name, more in TORCH.items()}
    return {name: (env, folder / name.replace(", ", "-")) for name, env in wanted.items()}


@pytest.fixture(scope="module")
def made(machines):
    """Each machine with its bases and a training of ten steps."""
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(run, folder, env, bases=True, train=True)
            for name, (env, folder) in machines.items()
        }
    for name, job in jobs.items():
        said, kind = job.result(), name.split()[0].strip(",")
        if kind == "torch":
            assert said["torch"].lower() == name.split()[1]
        else:
            assert set(said["openblas"]) <= set(OPENBLAS[kind]), said
            assert said["threads"] == [int(name.split()[1])]
    return {name: folder for name, (_, folder) in machines.items()}


@pytest.mark.slow
def test_every_kernel_makes_the_same_edits(made):
    bases = {name: dict(np.load(folder / "bases.npz")) for name, folder in made.items()}
    apart = {(a, b): edits_apart(bases[a], bases[b]) for a in bases for b in bases if a != b}
    pair = max(apart, key=apart.get)
    print(f"{len(bases)} machines: edits within {apart[pair]:.1e}, at most between {pair}")
    assert apart[pair] <= 1e-6


@pytest.mark.slow
def test_every_kernel_trains_nearly_the_same(made):
    """Ten steps. Adam divides a gradient by its size, so what is rounding alone may count, and
    more steps add to it: nothing is promised of the deltas' bits on another processor.
    """
    files = {
        name: read_concept(folder / "rex" / "rex.safetensors") for name, folder in made.items()
    }
    first, worst = next(iter(files.values())), 0.0
    for name, concept in files.items():
        gaps = []
        for part in ("deltas", "trigger_rows"):
            a, b = (np.asarray(getattr(c, part), float) for c in (first, concept))
            gaps.append(np.linalg.norm(a - b) / np.linalg.norm(a))
        print(f"{name}: deltas {gaps[0]:.1e}, trigger {gaps[1]:.1e} from those of the first")
        worst = max(worst, *gaps)
    assert worst <= 1e-3


@pytest.mark.slow
def test_a_file_of_each_kernel_loads_and_generates_under_each(made, machines):
    files = [str(folder / "rex" / "rex.safetensors") for folder in made.values()] + [SAMPLE]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(run, folder / "reads", env, files=files)
            for env, folder in machines.values()
        ]
    assert all(job.result() for job in jobs)
    shown = [dict(np.load(folder / "reads" / "pictures.npz")) for folder in made.values()]
    found = [psnr(shown[0][file], other[file]) for other in shown[1:] for file in files]
    differing = min(psnr(shown[0][files[0]], shown[0][file]) for file in files[:-1])
    print(f"{len(found)} pictures: PSNR at least {min(found):.0f} dB; between the files of one")
    print(f"training, by each kernel, at least {differing:.0f} dB")
    assert min(found) >= 60
