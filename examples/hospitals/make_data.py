"""Write the made-up patients of three hospitals, and of a public registry, as CSV files.

    python make_data.py data

Nobody is behind a row. Sites differ as real ones do: in age, in how many come as emergencies, in a laboratory that
measures too high, and in how often a value is missing. What raises the risk is the same everywhere.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

COLUMNS = (
    "age",
    "female",
    "systolic_pressure",
    "heart_rate",
    "creatinine",
    "haemoglobin",
    "earlier_admissions",
    "days_in_hospital",
    "emergency",
)
OUTCOME = "readmitted"

#                patients, mean age, emergencies, creatinine is measured higher by, values that are missing
SITES = {
    "north": (520, 74.0, 0.35, 0.00, 0.02),
    "south": (240, 52.0, 0.20, 0.25, 0.10),
    "west": (380, 63.0, 0.70, 0.00, 0.05),
    "registry": (1500, 64.0, 0.40, 0.00, 0.00),  # public: the server evaluates on it
}


def patients(seed: int, count: int, age: float, emergencies: float, shift: float, missing: float) -> list[list[str]]:
    """Return rows of a CSV file, the outcome last."""
    draw = np.random.default_rng(seed)
    ages = np.clip(draw.normal(age, 12, count), 18, 99).round()
    female = draw.random(count) < 0.5
    kidney = draw.gamma(2.0, 0.5, count)  # what is ill about it, and shows in two laboratory values
    pressure = draw.normal(125 + 0.25 * (ages - 60), 15).round()
    emergency = draw.random(count) < emergencies
    pulse = draw.normal(76 + 8 * emergency, 11).round()
    creatinine = np.round(0.75 + 0.3 * kidney + 0.15 * ~female + draw.normal(0, 0.1, count), 2)
    haemoglobin = np.round(14.2 - 0.8 * kidney - 0.9 * female + draw.normal(0, 0.8, count), 1)
    earlier = draw.poisson(0.4 + 0.5 * kidney)
    days = 1 + draw.poisson(2 + 2 * emergency + 0.03 * (ages - 50).clip(0))
    risk = -5 + 0.08 * (ages - 62) + 2.6 * kidney + 1.3 * earlier + 1.6 * emergency - 0.03 * (pressure - 125)
    risk += 2.0 * ((pulse > 95) & (haemoglobin < 12))
    outcome = draw.random(count) < 1 / (1 + np.exp(-risk))
    laboratory = {4: np.round(creatinine + shift, 2), 5: haemoglobin}
    columns = (ages, female, pressure, pulse, laboratory[4], haemoglobin, earlier, days, emergency, outcome)
    rows = [[f"{float(value):g}" for value in row] for row in zip(*columns, strict=True)]
    for row in rows:
        for column in laboratory:
            if draw.random() < missing:
                row[column] = ""
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (site, numbers) in enumerate(SITES.items()):
        rows = patients(seed, *numbers)
        with (folder / f"{site}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[*COLUMNS, OUTCOME], *rows])
        readmitted = sum(row[-1] == "1" for row in rows) / len(rows)
        print(f"{folder / site}.csv: {len(rows)} patients, {100 * readmitted:.0f} % readmitted")


if __name__ == "__main__":
    main()
