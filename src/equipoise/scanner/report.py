"""What the log says of a session."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """What the log says of a session; times are in seconds from its beginning.

    ``told`` holds what the client was told of the scan, such as how reversed readouts, navigators
    and averages were used.
    """

    number: int
    peer: str
    configuration: str = ""
    readouts: int = 0
    images: int = 0
    received: int = 0
    sent: int = 0
    memory: int = 0
    last_readout: float | None = None
    first_image: float | None = None
    last_image: float | None = None
    seconds: float = 0.0
    outcome: str = "complete"
    ignored: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
