"""A queue that takes sbatch's scripts as SLURM does, and runs their jobs on this machine at once.

It knows what submitit's scripts use: arrays, output files, `srun`, requeuing. Jobs live in a
folder, one file each that holds the process's number. No limits, no nodes, no accounting.
"""

from __future__ import annotations

import sys
from pathlib import Path

_COMMANDS = {
    "sbatch": """
        script = Path(sys.argv[1]).read_text()
        wanted = re.search(r"--partition=(\\S+)", script)
        if wanted and wanted[1] != "cpu":
            sys.exit("sbatch: error: invalid partition specified: " + wanted[1] + "\\n"
                     "sbatch: error: Batch job submission failed: Invalid partition name specified")
        number = str(1000 + len(list(QUEUE.glob("*.script"))))
        (QUEUE / f"{number}.script").write_text(script)
        array = re.search(r"--array=0-(\\d+)", script)
        for place in range(int(array[1]) + 1) if array else [None]:
            begin(number if place is None else f"{number}_{place}")
        print("Submitted batch job", number)
    """,
    "srun": """
        options, command = {}, sys.argv[1:]
        while command[0].startswith("--"):
            name = command.pop(0)
            if name in ("--output", "--error"):
                options[name] = fill(command.pop(0))
        with open(options["--output"], "a") as out, open(options["--error"], "a") as err:
            sys.exit(subprocess.run(command, stdout=out, stderr=err).returncode)
    """,
    "squeue": """
        for path in QUEUE.glob("*.job"):
            process = Path("/proc") / path.read_text() / "stat"
            if process.exists() and process.read_text().rpartition(")")[2].split()[0] != "Z":
                script = (QUEUE / (path.stem.partition("_")[0] + ".script")).read_text()
                print(path.stem, re.search(r"--job-name=(\\S+)", script)[1])
    """,
    "scontrol": """
        assert sys.argv[1] == "requeue"
        begin(sys.argv[2])
    """,
}
_SHARED = """
import os, re, signal, subprocess, sys
from pathlib import Path

QUEUE = Path({queue!r})


def begin(name):
    number, _, place = name.partition("_")
    ids = {{"SLURM_JOB_ID": number}}
    if place:
        ids |= {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": place}}
    job = subprocess.Popen(
        ["bash", str(QUEUE / (number + ".script"))],
        env={{**os.environ, **ids}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (QUEUE / (name + ".job")).write_text(str(job.pid))


def fill(path):
    number, place = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return path.replace("%j", number).replace("%A", number).replace("%a", place).replace("%t", "0")


"""


def install(folder: Path) -> Path:
    """Write the commands into a folder, which is to be put on the PATH; return the queue's."""
    queue, commands = folder / "queue", folder / "commands"
    queue.mkdir(parents=True)
    commands.mkdir()
    for name, body in _COMMANDS.items():
        lines = [line[8:] for line in body.splitlines()]
        text = f"#!{sys.executable}" + _SHARED.format(queue=str(queue)) + "\n".join(lines) + "\n"
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return commands
