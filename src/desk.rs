//! The growth desk's arithmetic: what a contractor's list of customers, jobs and leads says, and what to do about it.
//!
//! ```text
//! CSV ─▶ Book ─┬─▶ reactivation ─┐
//!              ├─▶ lifetime ─────┼─▶ road map (and a capacity) ─┐
//!              ├─▶ pipeline ─────┘                              ├─▶ report
//!              ├─▶ discovery ─▶ cadence ─▶ calendar ────────────┘
//!              each gives a Finding: figures for programs, sentences and tables for people
//! ```
//!
//! Pure: no I/O and no clock. All dates are relative to the day that the book is as of, so the same file always gives
//! the same figures. Money is whole cents. A share or a quotient is rounded half up, once, where it is shown or made a
//! count; `docs/DEMO.md` defines every figure, and `tests/desk/figures.py` computes them a second time.

pub mod book;
pub mod cadence;
pub mod calendar;
pub mod capacity;
pub mod discovery;
pub mod finding;
pub mod lifetime;
pub mod number;
pub mod pipeline;
pub mod reactivation;
pub mod report;
pub mod road_map;
pub mod sample;

#[cfg(test)]
mod tests;
