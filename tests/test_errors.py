"""The error tree: codes are what the top of the module promises."""

import re
import signal

from hsyn_cli import errors


def test_every_class_has_the_documented_exit_code() -> None:
    documented = {
        name: int(code)
        for name, code in re.findall(r"^ +(\w+) +(\d+) ", errors.__doc__ or "", flags=re.MULTILINE)
    }
    defined = {
        name: cls.exit_code
        for name, cls in vars(errors).items()
        if isinstance(cls, type)
        and issubclass(cls, errors.HsynError)
        and cls is not errors.HsynError
    }
    assert documented == defined
    assert len(set(defined.values())) == len(defined)


def test_message_and_hint() -> None:
    error = errors.InputError("a.nii: no such file", "check the path")
    assert (str(error), error.hint, errors.InputError("x").hint) == (
        "a.nii: no such file",
        "check the path",
        "",
    )


def test_interruptions_have_the_code_of_their_signal() -> None:
    assert errors.interruption(signal.SIGINT) is errors.Interrupted
    assert errors.interruption(signal.SIGTERM) is errors.Terminated
    error = errors.interruption(1)("hung up")
    again = type(error)("hung up; the state is kept", "continue")
    assert isinstance(again, errors.Interrupted)
    assert (again.exit_code, again.hint) == (129, "continue")
