#!/usr/bin/env python3
"""The growth desk's figures, a second time.

Written from docs/DEMO.md alone, not from the Rust code: exact fractions here, integers there; plain lists here, types there. The
tests run both over the same file and compare every figure. Standard library only.

    figures.py BOOK.csv [--capacity JOBS] [--decision approved|denied|expired] [--as-of YYYY-MM-DD]

Prints one JSON object: each agent's figures under its name, and under "lists" the ids that it names, in order.
"""

import argparse
import csv
import datetime
import json
from fractions import Fraction
from math import floor

SEGMENTS = ["homeowner", "landlord", "commercial"]


def half_up(value):
    """A fraction to the nearest whole number, halves up."""
    return floor(Fraction(value) + Fraction(1, 2))


def over(part, whole):
    """A quotient that is 0 where there is nothing to divide by."""
    return Fraction(part, whole) if whole else Fraction(0)


def day(text):
    return datetime.date.fromisoformat(text) if text else None


def cents(text):
    return int(Fraction(text) * 100) if text else None


def read(path, as_of):
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    dates = ["created_on", "completed_on", "discovery_on", "quoted_on"]
    for row in rows:
        for column in row:
            row[column] = row[column].strip()
        for column in dates:
            row[column] = day(row[column])
        row["amount"], row["cost"] = cents(row["amount"]), cents(row["cost"])
        row["attempts"] = int(row["attempts"] or 0)
        row["contact"] = bool(row["phone"] or row["email"])
    today = day(as_of) if as_of else max(row[column] for row in rows for column in dates if row[column])
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("customer", "job", "lead")}
    for customer in kinds["customer"]:
        customer["jobs"] = [job for job in kinds["job"] if job["customer"] == customer["id"]]
    return today, kinds["customer"], kinds["job"], kinds["lead"]


def is_no(lead):
    return "no" in (lead["in_area"], lead["budget"], lead["decision_maker"])


def stage(lead):
    answers = [lead["in_area"], lead["budget"], lead["decision_maker"]]
    if lead["stage"] == "won":
        return "won"
    if lead["discovery_on"] and answers == ["yes", "yes", "yes"]:
        return "sql"
    return "qso" if lead["asked"] == "yes" else "mql"


def death(lead):
    """Whose fault it is that a lost lead died, and whether it was given up too early."""
    if is_no(lead):
        return "bad_lead", False
    if lead["quoted_on"]:
        return "sale", False
    if stage(lead) == "sql":
        return "bad_process", False
    if lead["asked"] == "yes":
        if lead["reached"] == "yes":
            return "bad_process", False
        return ("bad_process", True) if lead["attempts"] < 30 else ("bad_lead", False)
    return ("bad_process" if lead["attempts"] == 0 else "bad_lead"), False


def reactivation(today, customers, jobs, leads):
    contacts = []
    for customer in customers:
        if customer["jobs"] and customer["contact"]:
            age = (today - max(job["completed_on"] for job in customer["jobs"])).days
            if age >= 365:
                contacts.append(("customer", age, sum(job["amount"] for job in customer["jobs"]), customer["id"]))
    for lead in leads:
        if lead["stage"] == "lost" and (today - lead["created_on"]).days >= 90 and not is_no(lead) and lead["contact"]:
            age = (today - (lead["quoted_on"] or lead["created_on"])).days
            contacts.append(("lead", age, lead["amount"] or 0, lead["id"]))
    contacts.sort(key=lambda c: (0 if c[1] <= 730 else 1 if c[1] <= 1825 else 2, -c[2], c[3]))
    recent = [job["amount"] for job in jobs if (today - job["completed_on"]).days < 365]
    basis = recent or [job["amount"] for job in jobs]
    average = half_up(over(sum(basis), len(basis)))
    held = [lead for lead in leads if lead["discovery_on"]]
    won = [lead for lead in held if lead["stage"] == "won"]
    active = half_up(Fraction(15, 100) * len(contacts))
    list_jobs = half_up(over(active * len(won), len(held)))
    rule = half_up(Fraction(15, 100) * sum(recent))
    planned = min(list_jobs, rule // average if average else 0)
    return [c[3] for c in contacts], {
        "list_customers": sum(c[0] == "customer" for c in contacts),
        "list_leads": sum(c[0] == "lead" for c in contacts),
        "annual_revenue": sum(recent),
        "average_job": average,
        "expected_active": active,
        "list_jobs": list_jobs,
        "list_bookings": list_jobs * average,
        "rule_bookings": rule,
        "planned_jobs": planned,
        "planned_bookings": planned * average,
    }


def lifetime(today, customers):
    def group(name, members):
        buyers = [member["jobs"] for member in members if member["jobs"]]
        jobs = [job for buyer in buyers for job in buyer]
        by_year = []
        for years in (1, 2, 3, 5):
            values = []
            for buyer in buyers:
                first = min(job["completed_on"] for job in buyer)
                if (today - first).days >= 365 * years:
                    within = [job["amount"] for job in buyer if (job["completed_on"] - first).days < 365 * years]
                    values.append(sum(within))
            by_year.append(half_up(Fraction(sum(values), len(values))) if values else None)
        return {
            "segment": name,
            "customers": len(members),
            "buyers": len(buyers),
            "repeat_buyers": sum(len(buyer) >= 2 for buyer in buyers),
            "jobs": len(jobs),
            "revenue": sum(job["amount"] for job in jobs),
            "value": half_up(over(sum(job["amount"] for job in jobs), len(buyers))),
            "costed_revenue": sum(job["amount"] for job in jobs if job["cost"] is not None),
            "cost": sum(job["cost"] for job in jobs if job["cost"] is not None),
            "value_by_year": by_year,
        }

    segments = [group(name, [c for c in customers if c["segment"] == name]) for name in SEGMENTS]
    return {"all": group("all", customers), "segments": segments}


def pipeline(leads):
    stages = [stage(lead) for lead in leads]
    opens = [stage(lead) for lead in leads if lead["stage"] == "open"]
    lost = [(lead, *death(lead)) for lead in leads if lead["stage"] == "lost"]
    held = [lead for lead in leads if lead["discovery_on"]]
    figures = {"leads": len(leads)}
    figures |= {name: stages.count(name) for name in ("mql", "qso", "sql", "won")}
    figures |= {f"open_{name}": opens.count(name) for name in ("mql", "qso", "sql")}
    return figures | {
        "discovered": len(held),
        "discovered_won": sum(lead["stage"] == "won" for lead in held),
        "lost": len(lost),
        "lost_bad_lead": sum(fault == "bad_lead" for _, fault, _ in lost),
        "lost_bad_process": sum(fault == "bad_process" for _, fault, _ in lost),
        "lost_sale": sum(fault == "sale" for _, fault, _ in lost),
        "given_up": sum(early for _, _, early in lost),
        "given_up_attempts": sum(lead["attempts"] for lead, _, early in lost if early),
    }


def to_drop(leads):
    opens = [lead for lead in leads if lead["stage"] == "open"]
    hopeless = lambda lead: lead["reached"] != "yes" and lead["attempts"] >= 40
    return [lead["id"] for lead in opens if is_no(lead) or not lead["contact"] or hopeless(lead)]


def discovery(leads, decision):
    opens = [lead for lead in leads if lead["stage"] == "open"]
    drops = to_drop(leads)
    if not drops:
        decision = "not_needed"
    dropped = drops if decision == "approved" else []
    kept = [lead for lead in opens if lead["id"] not in dropped]
    return dropped, {
        "open": len(opens),
        "to_drop": len(drops),
        "decision": decision,
        "dropped": len(dropped),
        "kept": len(kept),
        "offered": len(opens) - len(drops),
        "kept_qso": sum(stage(lead) == "qso" for lead in kept),
        "kept_sql": sum(stage(lead) == "sql" for lead in kept),
    }


def cadence(today, leads, dropped):
    # The workday of each of the 36 attempts, from the first: 3 x 3 a day, 4 x 2, 10 x 1, 6 every other workday, 3 weekly.
    shape = [d for d in range(3) for _ in range(3)] + [d for d in range(3, 7) for _ in range(2)]
    shape += list(range(7, 17)) + list(range(18, 30, 2)) + [33, 38, 43]
    workdays = [today + datetime.timedelta(days=n) for n in range(1, 200)]
    workdays = [date for date in workdays if date.isoweekday() <= 5]
    mine = [lead for lead in leads if lead["stage"] == "open" and stage(lead) == "qso" and lead["id"] not in dropped]
    mine.sort(key=lambda lead: lead["id"])
    mine.sort(key=lambda lead: lead["created_on"], reverse=True)
    load, places = {}, {"planned": 0, "done": 0, "no_contact": 0, "waiting": 0}
    for lead in mine:
        left = shape[lead["attempts"] :]
        if not left:
            places["done"] += 1
            continue
        if not lead["contact"]:
            places["no_contact"] += 1
            continue
        for start in range(60):
            days = [workdays[start + d - left[0]] for d in left]
            if all(load.get(date, 0) + days.count(date) <= 40 for date in days):
                places["planned"] += 1
                for date in days:
                    load[date] = load.get(date, 0) + 1
                break
        else:
            places["waiting"] += 1
    figures = {"open_qso": len(mine), "attempts_made": sum(lead["attempts"] for lead in mine)} | places
    return figures | {
        "attempts": sum(load.values()),
        "first_day": str(min(load)) if load else None,
        "last_day": str(max(load)) if load else None,
        "busiest_day": max(load.values(), default=0),
    }


def road_map(today, customers, jobs, leads, found, capacity):
    age = lambda date: (today - date).days
    months = [sum(30 * m <= age(job["completed_on"]) < 30 * (m + 1) for job in jobs) for m in range(12)]
    capacity = capacity or max(max(months), 1)
    repeat = 0
    for customer in customers:
        for job in customer["jobs"]:
            first = min(j["completed_on"] for j in customer["jobs"])
            repeat += age(job["completed_on"]) < 365 and job["completed_on"] > first
    p, d, average = found["pipeline"], found["discovery"], found["reactivation"]["average_job"]
    free_leads = sum(lead["source"] != "ads" and age(lead["created_on"]) < 365 for lead in leads)
    new = half_up(over(free_leads * p["won"], p["leads"]))
    coming = [
        (repeat, 0, 12),
        (found["reactivation"]["planned_jobs"], 0, 6),
        (half_up(over(d["kept_sql"] * p["won"], p["sql"] + p["won"])), 0, 3),
        (half_up(over(d["kept_qso"] * p["won"], p["qso"] + p["sql"] + p["won"])), 1, 4),
        (half_up(Fraction(10, 12) * new), 2, 10),
    ]
    ads = [lead for lead in leads if lead["source"] == "ads"]
    sales = [lead for lead in ads if lead["stage"] == "won"]
    ads_cost, ads_revenue = sum(lead["cost"] or 0 for lead in ads), sum(lead["amount"] for lead in sales)
    per_sale = half_up(over(ads_cost, len(sales)))
    pay = ads_cost > 0 and ads_revenue >= 3 * ads_cost
    queues, plan = [0] * 5, []
    for month in range(12):
        done = []
        for source, (total, begin, length) in enumerate(coming):
            # Whole jobs, as evenly as can be: what is due by the end of a month, less what was by the end of the last.
            due = lambda m: floor(Fraction(total * min(max(m - begin, 0), length), length))
            queues[source] += due(month + 1) - due(month)
            done.append(min(queues[source], capacity - sum(done)))
            queues[source] -= done[source]
        free = capacity - sum(done)
        by_ads = (free // 2 if month < 9 else free) if pay and month >= 6 else 0
        plan.append((done, by_ads))
    blocks = []
    for number in range(4):
        part = plan[3 * number : 3 * number + 3]
        count = sum(sum(done) + by_ads for done, by_ads in part)
        first = today + datetime.timedelta(days=90 * number + 1)
        blocks.append({
            "first_day": str(first),
            "last_day": str(first + datetime.timedelta(days=89)),
            "by_source": [sum(done[source] for done, _ in part) for source in range(5)],
            "ads": sum(by_ads for _, by_ads in part),
            "jobs": count,
            "revenue": count * average,
            "ads_budget": sum(by_ads for _, by_ads in part) * per_sale,
        })
    total = sum(block["jobs"] for block in blocks)
    return {
        "capacity": capacity,
        "jobs": total,
        "revenue": total * average,
        "beyond_capacity": sum(queues),
        "months": [sum(done) + by_ads for done, by_ads in plan],
        "blocks": blocks,
        "ads_cost": ads_cost,
        "ads_revenue": ads_revenue,
        "ads_cost_per_sale": per_sale,
        "last_block_revenue": sum(job["amount"] for job in jobs if age(job["completed_on"]) < 90),
    }


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("book")
    arguments.add_argument("--capacity", type=int)
    arguments.add_argument("--decision", default="expired")
    arguments.add_argument("--as-of")
    given = arguments.parse_args()
    today, customers, jobs, leads = read(given.book, given.as_of)
    contacts, first = reactivation(today, customers, jobs, leads)
    dropped, disqualified = discovery(leads, given.decision)
    found = {
        "reactivation": first,
        "lifetime-value": lifetime(today, customers),
        "pipeline": pipeline(leads),
        "discovery": disqualified,
        "cadence": cadence(today, leads, dropped),
    }
    found["road-map"] = road_map(today, customers, jobs, leads, found, given.capacity)
    found["lists"] = {"call_first": contacts[:15], "to_drop": to_drop(leads)}
    print(json.dumps(found))


main()
