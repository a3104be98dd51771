"""Conversion of the headers of older model files to the present format."""

from typing import Any

SCAN_LAM = 8.0
"""Start of lam of MOL-RIDGE, which older files do not record; the weights hold its final value."""

METHODS_WITH_SKIP = ("mol-lr", "mol-m")
"""Methods whose network has the setting ``skip``."""


def upgraded(old: dict[str, Any], fixed_lam: float | None) -> dict[str, Any]:
    """Convert a configuration of the format equipoise-1 to equipoise-2.

    Claims of older files about the evidence for m are dropped, because the evidence is computed.
    Older files hold no solver options, so the defaults of the method apply.

    Parameters
    ----------
    old
        ``network``, ``data_weight`` (``noise``, ``fixed`` or ``scan``), and ``method`` with
        ``settings``. The oldest files hold MOL-LR only, with its settings beside the network.
    fixed_lam
        The stored data weight, if it is fixed.

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
    # Older files describe the networks of the two passes; the present format describes methods.
    if "guide" in settings:
        settings["guide"] = {"network": settings["guide"]}
        hidden = settings.pop("hidden")
        settings["adaptation"] = {"features": network["features"], "hidden": hidden}
    return {"method": method, "network": network, "data_weight": weight, **settings}
