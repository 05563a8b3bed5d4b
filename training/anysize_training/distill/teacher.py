"""Finding the teacher that a recipe names."""

from pathlib import Path

from anysize.family.fetch import BUILTIN, TEACHER_FINGERPRINT, Say, builtin_teacher, fetch_builtin_teacher, hub_teacher
from anysize.family.manifest import BuiltinTeacher, FolderTeacher, HubTeacher
from anysize.family.pretrained import checkpoint_fingerprint

_BUILTIN = "builtin:"

TeacherSource = BuiltinTeacher | FolderTeacher | HubTeacher


def find_teacher(name: str, say: Say) -> tuple[TeacherSource, Path]:
    """Where a teacher comes from, as a manifest says it, and the folder of its checkpoint.

    Args:
        name: `builtin:smollm2-135m`, a checkpoint folder, or a Hugging Face model name, which is downloaded.
        say: told in one line what is being done.

    Raises:
        FetchError: it cannot be downloaded.
        ArtifactError: its weights cannot be read.
    """
    if name.startswith(_BUILTIN):
        builtin = name.removeprefix(_BUILTIN)
        if builtin == BUILTIN:
            fetch_builtin_teacher(say)
        return BuiltinTeacher(name=builtin, fingerprint=TEACHER_FINGERPRINT), builtin_teacher(builtin)
    if Path(name).is_dir():
        return FolderTeacher(fingerprint=checkpoint_fingerprint(Path(name))), Path(name)
    folder = hub_teacher(name, None, download=True)
    # The hub's cache keeps each snapshot in a folder named by its commit.
    return HubTeacher(repo=name, revision=folder.name, fingerprint=checkpoint_fingerprint(folder)), folder
