"""A conversation with a task that generates: what was said is remembered, answers are told while they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from weft.core.example import Dropped
from weft.core.network import Network
from weft.errors import DataError, nearest
from weft.evaluate.predict import answering
from weft.task.base import Converses, Task, Tokenizer

Message = Mapping[str, str]
Listener = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Said:
    """One answer.

    Attributes:
        text: of the answer, as far as it came.
        num_cut: tokens of the conversation that did not fit.
        is_whole: whether nobody broke it off.
    """

    text: str
    num_cut: int = 0
    is_whole: bool = True


@dataclass(slots=True)
class Conversation:
    """What was said so far, and who answers.

    Attributes:
        network: that has the task.
        task: that answers.
        tokenizer: of the network.
        dtype: of matrix products.
        system: what the task is told before all, empty for nothing.
        messages: turns of user and assistant.
    """

    network: Network
    task: Converses
    tokenizer: Tokenizer
    dtype: torch.dtype
    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])

    def say(self, text: str, heard: Listener) -> Said:
        """Return the answer to ``text``, which ``heard`` is told piece by piece.

        An answer that Ctrl-C breaks off is remembered as far as it came, and forgotten with its question if it had not
        begun.

        Raises:
            DataError: the task cannot read such a conversation.
        """
        turns = [*self.messages, {"role": "user", "content": text}]
        opening = [{"role": "system", "content": self.system}] if self.system else []
        asked = self.task.turn([*opening, *turns], self.tokenizer)
        if isinstance(asked, Dropped):
            raise DataError(f"conversation: must be one that the task can answer, but: {asked.reason}.")
        pieces: list[str] = []

        def hear(piece: str) -> None:
            pieces.append(piece)
            heard(piece)

        try:
            with answering(self.network, self.dtype):
                answer = self.task.reply(self.network, asked, hear)
            said = Said(answer.text or "", asked.num_cut)
        except KeyboardInterrupt:
            said = Said("".join(pieces), asked.num_cut, is_whole=False)
        if said.text or said.is_whole:
            self.messages = [*turns, {"role": "assistant", "content": said.text}]
        return said


def conversing(tasks: Mapping[str, Task], name: str | None) -> Converses:
    """Return the task called ``name``, or the only one that can go on with a conversation.

    Raises:
        DataError: there is none, there are several, or it is not one.
    """
    able = {own: task for own, task in tasks.items() if isinstance(task, Converses)}
    if name is not None and name not in able:
        raise DataError(
            f"--task {name}: must be a task that generates text, but is not. {nearest(name, able) if able else 'There is none.'}"
        )
    if name is None and len(able) != 1:
        found = (
            f"has {', '.join(able)}. Choose one with --task" if able else "has none. Choose another bundle"
        )
        raise DataError(f"bundle: must have one task that generates text, but {found}.")
    return able[name] if name is not None else next(iter(able.values()))
