"""The one error a user sees: what went wrong, what we got, what is allowed, what to do next."""

from __future__ import annotations

from functools import partial


class UserError(Exception):
    """A mistake the user can mend. The command line prints its four parts and exits with code 2."""

    def __init__(self, what: str, *, got: object, allowed: object, next: str) -> None:
        super().__init__(what)
        self.what = what
        self.got = str(got)
        self.allowed = str(allowed)
        self.next = next

    def __reduce__(self) -> tuple[object, ...]:  # a process of a pool sends its error home
        return partial(UserError, got=self.got, allowed=self.allowed, next=self.next), (self.what,)

    def __str__(self) -> str:
        return f"{self.what}\n  got:     {self.got}\n  allowed: {self.allowed}\n  next:    {self.next}"
