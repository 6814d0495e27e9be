"""Asking the workers that run what they serve."""

from collections.abc import Mapping, Sequence

from kombu.exceptions import OperationalError

from ledger.queues import is_urgent
from workers.app import make_app
from workers.broker import BrokerUnavailableError
from workers.fingerprints import COMMAND

_ANSWER_S = 2.0
"""A worker answers from its main process, which does no work, within milliseconds."""


def fingerprints(broker_url: str, workers: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Ask workers which settings they were started with.

    Args:
        broker_url: where the broker is, as kombu takes it.
        workers: their names; when all of them have answered, nobody else is waited for.

    Returns:
        By worker, its fingerprints; one of an older release has none.

    Raises:
        BrokerUnavailableError: the broker does not take the question.
    """
    app = make_app(broker_url)
    try:
        answers = app.control.broadcast(
            COMMAND, destination=list(workers), reply=True, timeout=_ANSWER_S
        )
    except (OperationalError, OSError) as error:
        raise BrokerUnavailableError(str(error)) from error
    finally:
        app.close()
    return {worker: told for answer in answers or [] for worker, told in answer.items()}


def served_queues(broker_url: str) -> Mapping[str, list[str]]:
    """Ask every worker for the queues that it takes shards from.

    Args:
        broker_url: where the broker is, as kombu takes it.

    Returns:
        By queue, the names of the workers that answered.

    Raises:
        BrokerUnavailableError: the broker does not take the question.
    """
    app = make_app(broker_url)
    try:
        answers = app.control.inspect(timeout=_ANSWER_S).active_queues() or {}
    except (OperationalError, OSError) as error:
        raise BrokerUnavailableError(str(error)) from error
    finally:
        app.close()
    served: dict[str, list[str]] = {}
    for worker, queues in sorted(answers.items()):
        for queue in queues:
            if not is_urgent(queue["name"]):  # it stands beside another one
                served.setdefault(str(queue["name"]), []).append(worker)
    return served
