"""Service Quotas of EC2, which moto does not have: vCPU limits by family and market, those that AWS publishes as codes."""

from __future__ import annotations

from typing import Any

# code -> (name, vCPUs). P and G families need a request to AWS before the first GPU instance starts: real accounts
# begin with 0 there; the simulated one has enough for one p5.48xlarge (192 vCPUs) in each market.
DEFAULTS: dict[str, tuple[str, float]] = {
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 256.0),
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 256.0),
    "L-417A185B": ("Running On-Demand P instances", 384.0),
    "L-7212CCBC": ("All P4, P3 and P2 Spot Instance Requests", 384.0),
    "L-C4BD4855": ("All P5 Spot Instance Requests", 384.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 256.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 256.0),
}


class Quotas:
    """The quotas of one simulated account, the same in every region."""

    def __init__(self) -> None:
        self.values = {code: value for code, (_, value) in DEFAULTS.items()}

    def answer(self, operation: str, params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body) of a call of the service-quotas API."""
        if operation in {"GetServiceQuota", "GetAWSDefaultServiceQuota"}:
            code = params.get("QuotaCode", "")
            if params.get("ServiceCode") != "ec2" or code not in self.values:
                return 400, {"__type": "NoSuchResourceException", "message": f"no quota {code}"}
            return 200, {"Quota": self._quota(code)}
        if operation in {"ListServiceQuotas", "ListAWSDefaultServiceQuotas"}:
            codes = self.values if params.get("ServiceCode") == "ec2" else []
            return 200, {"Quotas": [self._quota(code) for code in codes]}
        return 400, {"__type": "InvalidAction", "message": f"{operation} is not simulated"}

    def _quota(self, code: str) -> dict[str, Any]:
        name = DEFAULTS[code][0] if code in DEFAULTS else code
        return {
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": self.values[code],
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }
