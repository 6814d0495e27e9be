"""How a campaign proves its new wraps: what is asked for, the default, and the reason for it."""

from dataclasses import dataclass

import click

from keywrap.kms import KeyProvider, ServerSideRewrap
from keywrap.rewrapping import Prove
from ledger.campaigns import MIN_SAMPLE
from ledger.states import Kind

_DEFAULT_SAMPLE = 0.01


@dataclass(frozen=True, slots=True)
class Proof:
    """How a campaign proves its new wraps.

    Attributes:
        prove: the way.
        sample: the fraction of rewrapped blobs that the verifying task opens; None without one.
        why: the reason, where nobody asked for this one; empty where somebody did.
    """

    prove: Prove
    sample: float | None = None
    why: str = ""

    def option(self) -> str:
        """Return what follows `--prove` to ask for it."""
        if self.prove is Prove.SAMPLE:
            return f"{self.prove}:{(self.sample or 0) * 100:g}"
        return self.prove.value

    def sentence(self) -> str:
        """Say it in a plan."""
        why = f" (default: {self.why})" if self.why else ""
        match self.prove:
            case Prove.SAMPLE:
                part = f"{(self.sample or 0) * 100:g}% and never under {MIN_SAMPLE}"
                what = f"sample: {part} are opened; the others by key and version"
            case Prove.ALL:
                what = "all: each new wrap is opened and compared before use"
            case Prove.CONTENT:
                what = "content: each new wrap is opened and compared, and the blob's content opens"
        return what + why


def default_proof(kind: Kind, target: KeyProvider) -> Proof:
    """Return how a campaign proves its wraps where nobody says how.

    Args:
        kind: migrate, rotate or reencrypt.
        target: the provider of the KEK to wrap under.
    """
    if kind is Kind.REENCRYPT:
        return Proof(Prove.ALL, why="the worker makes the new data keys itself")
    if kind is Kind.MIGRATE:
        # It opens with a legacy key, so nothing is hidden from the worker by proving less.
        return Proof(Prove.ALL, why="legacy keys show the data keys to the worker anyway")
    if isinstance(target, ServerSideRewrap):
        why = "the key service rewraps without showing the data keys to the worker"
        return Proof(Prove.SAMPLE, _DEFAULT_SAMPLE, why)
    return Proof(Prove.ALL, why="this kind of key rewraps in the worker, which sees the data keys")


class ProveType(click.ParamType[Proof]):
    """`all`, `content`, or `sample:P` with P the percentage of blobs to open."""

    name = "all|sample:P|content"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Proof:
        """Read the option's value."""
        text = str(value)
        if text in {Prove.ALL, Prove.CONTENT}:
            return Proof(Prove(text))
        mode, _, percent = text.partition(":")
        try:
            fraction = float(percent.removesuffix("%")) / 100
        except ValueError:
            fraction = -1.0
        if mode != Prove.SAMPLE or not 0 <= fraction <= 1:
            self.fail("expected all, content, or sample:P with P from 0 to 100", param, ctx)
        return Proof(Prove.SAMPLE, fraction)
