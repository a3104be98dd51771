"""Headers of older model files, as this version writes them."""

from typing import Any

SCAN_LAM = 8.0
"""Start of lam of MOL-RIDGE, which those files do not have; the weights hold where it ended."""

METHODS_WITH_SKIP = ("mol-lr", "mol-m")


def upgraded(old: dict[str, Any], fixed_lam: float | None) -> dict[str, Any]:
    """The configuration of a file of the format equipoise-1 as one of equipoise-2.

    What those files claim of the evidence for m is left out: it is computed. They hold no solver
    options, so those of the method apply.

    Parameters
    ----------
    old
        ``network``, ``data_weight`` (``noise``, ``fixed`` or ``scan``), and ``method`` with
        ``settings``; the first files hold MOL-LR only, and its settings beside the network.
    fixed_lam
        The data weight that is stored, if it is a fixed one.

    Raises
    ------
    KeyError, TypeError
        If it is not such a configuration.
    """
    method = old.get("method", "mol-lr")
    settings = dict(old["settings"]) if "settings" in old else {k: old[k] for k in ("m", "shift")}
    settings.pop("m_evidence", None)
    network = dict(old["network"])
    if method not in METHODS_WITH_SKIP and not network.get("skip"):
        network.pop("skip", None)
    weight: dict[str, Any] = {"kind": old["data_weight"]}
    if weight["kind"] == "scan":
        weight["value"] = SCAN_LAM
    if fixed_lam is not None:
        weight["lam"] = fixed_lam
    if "guide" in settings:  # two passes: their networks were described, not their methods
        settings["guide"] = {"network": settings["guide"]}
        hidden = settings.pop("hidden")
        settings["adaptation"] = {"features": network["features"], "hidden": hidden}
    return {"method": method, "network": network, "data_weight": weight, **settings}
