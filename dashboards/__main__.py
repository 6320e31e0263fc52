"""`python -m dashboards` writes the generated files; with `--check` it names those out of date (exit code 1)."""

import sys
from pathlib import Path

from dashboards import catalogue
from dashboards.fraud_found import fraud_found
from dashboards.health import health
from dashboards.recovery import recovery

GRAFANA = Path(__file__).parent / "grafana"


def generated() -> dict[Path, str]:
    """Each generated file and what it should say."""
    return {
        catalogue.PAGE: catalogue.in_page(catalogue.PAGE.read_text()),
        GRAFANA / "health.json": health(),
        GRAFANA / "recovery.json": recovery(),
        GRAFANA / "fraud.json": fraud_found(),
    }


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            stale.append(path)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
