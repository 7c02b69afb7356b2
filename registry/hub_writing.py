"""What everything that writes to the Hugging Face Hub shares: a token that may write, and errors of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.errors import RegistryError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError


class PushError(RegistryError):
    """The Hub did not take what was pushed, or not all of it; the message says what is there now."""


def writing_api(repo: str) -> "HfApi":
    """Return the Hub's client, with the token of HF_TOKEN or of the login.

    Raises:
        PushError: There is none.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise PushError(f"no token to push to {repo} with: set HF_TOKEN, or run `hf auth login`; it needs write access")
    return HfApi(token=token)


@contextmanager
def doing(repo: str, what: str, state: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line: what failed, why, and what is there now."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except RegistryError:
        raise
    except HfHubHTTPError as error:
        raise PushError(f"{what} in {repo}: {_explain(error)}; {state}") from error
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise PushError(f"{what} in {repo}: {_innermost(error)}; {state}") from error


def _explain(error: "HfHubHTTPError") -> str:
    match error.response.status_code:
        case 401:
            return "the Hub does not know the token: set HF_TOKEN to a valid one, or run `hf auth login` again"
        case 403 | 404:
            return "the token may not write there: it needs write access to the repository or its organisation"
        case 429:
            return "the Hub asks to wait: too many requests"
    return _innermost(error)


def _innermost(error: BaseException) -> str:
    """Return the first line of what began it: the client wraps what went wrong in what it was doing."""
    while (cause := error.__cause__) is not None and str(cause).strip():
        error = cause
    return (str(error).strip() or type(error).__name__).split("\n")[0]
