"""Run a study from raw files to its report: ``python launch/run.py demo``, ``launch/run.py cardiacnet raw=/path``.

``launch/run.py mine/study.yaml`` runs a study of your own; its folder is the ``--config-dir`` of each command.
``key=value`` replaces a key of the study's yaml. The first argument that begins with ``-`` and all later arguments are
options of Snakemake, such as ``--dry-run`` or ``--profile slurm`` (launch/profiles/slurm). The same command continues
an interrupted run.
"""

import contextlib
import io
import os
import sys
from pathlib import Path

HERE = Path(__file__).absolute().parent


def main(arguments: list[str]) -> int:
    """Exit status of the run with ``arguments``."""
    studies = {path.stem: path for path in sorted((HERE / "studies").glob("*.yaml"))}
    file = studies.get(arguments[0], Path(arguments[0])) if arguments else Path()
    if file.suffix not in (".yaml", ".yml"):
        return print_error(f"give a study ({', '.join(studies)}) or a yaml file of your own: python launch/run.py demo")
    if not file.is_file():
        return print_error(f"{file} does not exist: give one of {', '.join(studies)}, or a yaml file of your own")
    first_option = next((at for at, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    if invalid := [word for word in arguments[1:first_option] if "" in word.partition("=")]:
        return print_error(f"{invalid[0]} is not key=value: write it as raw=/path")
    keys = dict(word.partition("=")[::2] for word in arguments[1:first_option])
    for key, setting in {"name": "data.name", "below": "paths"}.items():
        if key in keys:
            text = f"write it in the file of the study, and {setting} in its data or experiment"
            return print_error(f"{key}= cannot be given on the command line: {text}")
    if "raw" in keys:
        keys["raw"] = str(Path(keys["raw"]).resolve())
    if arguments[0] not in studies:
        keys["config_dir"] = str(file.absolute().parent)
    if "JOBS" in os.environ:
        keys.setdefault("jobs", os.environ["JOBS"])
    try:
        return run_study(file.absolute(), keys, arguments[first_option:])
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(("snakemake", "psutil")):
            raise
        return print_error("launch/ needs Snakemake: install it with python -m pip install 'echodream[pipeline]'")
    except KeyboardInterrupt:  # Ctrl-C before the first step or after the last step
        return 130


def run_study(file: Path, keys: dict[str, str], options: list[str]) -> int:
    """Run the study of the yaml ``file`` with Snakemake; ``keys`` replace keys of the file. Return the exit status."""
    import progress
    import yaml
    from pipeline import check_keys, log_folder, steps
    from snakemake.cli import args_to_api, parse_args, parse_config
    from snakemake.exceptions import print_exception
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    try:
        study = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        return print_error(
            f"{file} has no keys and values of yaml ({' '.join(str(error).split())}): see launch/studies"
        )
    try:
        check_keys(study | keys)
        study |= parse_config([f"{key}={value}" for key, value in keys.items()])
    except ValueError as error:
        return print_error(f"{file.name}: {error}")
    name = file if "config_dir" in keys else file.stem
    for key in ("data", *(("raw",) if "phantom" not in study else ())):
        if study.get(key) is None:
            return print_error(f"give {key}=: python launch/run.py {name} {key}=...")
    options = [part for word in options for part in (word.split("=") if word.startswith("--profile=") else [word])]
    if "--profile" in options:
        profile = options[options.index("--profile") + 1 :][:1]
        if not profile or not profile[0] or profile[0].startswith("-"):
            return print_error("--profile has no value: give the name or folder of a profile, as --profile slurm")
        keys.setdefault("cores", "8")  # CPUs of a cluster job, independent of this machine
    try:
        progress.State.steps = {step.name: step for step in steps(study)}
    except ValueError as error:
        return print_error(f"{file.name}: {error}")
    progress.State.logs = log_folder(study)
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_steps", progress)
    os.chdir(HERE.parent)
    if "--profile" not in options:
        options = ["--profile", "local", *options]
    position = options.index("--profile") + 1
    folder = HERE / "profiles" / options[position]
    options[position] = str(folder) if folder.is_dir() else options[position]
    config = ["--configfile", str(file), *(["--config", *(f"{key}={keys[key]}" for key in keys)] if keys else [])]
    command = ["--snakefile", str(HERE / "Snakefile"), *config, "--workflow-profile", "none", "--logger", "steps"]
    try:
        with contextlib.redirect_stderr(io.StringIO()) as messages:  # hide the message about the profile
            parser, args = parse_args([*command, *options])
    except SystemExit as error:
        sys.stderr.write(messages.getvalue())
        return int(error.code or 0)
    try:
        succeeded = args_to_api(args, parser)
    except Exception as error:  # noqa: BLE001 (the program of Snakemake does this, too)
        print_exception(error)
        succeeded = False
    if failed := list(progress.State.failed.values()):
        text = "fix the error and run the same command again to continue"
        print(f"stopped at command {failed[0]} of {progress.State.total}: {text}", file=sys.stderr)
    return 0 if succeeded else 1


def print_error(text: str) -> int:
    """Print ``text`` as an error message, and return the exit status 1."""
    print(f"error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
