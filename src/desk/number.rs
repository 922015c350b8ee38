//! Cents, shares and rounding: whole numbers only.

use serde::Serialize;

/// Dollars and cents, in cents.
pub type Cents = i64;

/// `part / whole`, half up; 0 where there is nothing to divide by. Neither is negative here.
pub fn quotient(part: i64, whole: i64) -> i64 {
    let (part, whole) = (i128::from(part), i128::from(whole));
    if whole == 0 { 0 } else { ((2 * part + whole) / (2 * whole)) as i64 }
}

/// `a * b / c`, half up, without overflow in between.
pub fn proportion(a: i64, b: i64, c: i64) -> i64 {
    let (a, b, c) = (i128::from(a), i128::from(b), i128::from(c));
    if c == 0 { 0 } else { ((2 * a * b + c) / (2 * c)) as i64 }
}

/// A share in thousandths. `None` where there is no whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Share(Option<i64>);

impl Share {
    /// Of so many, so many.
    pub fn of(part: usize, whole: usize) -> Share {
        Share::of_cents(part as i64, whole as i64)
    }

    /// Of so much money, so much. It may be negative.
    pub fn of_cents(part: Cents, whole: Cents) -> Share {
        let magnitude = proportion(part.abs(), 1000, whole);
        Share((whole > 0).then_some(magnitude * part.signum()))
    }

    /// As text: `34.2%`.
    pub fn text(self) -> String {
        match self.0 {
            None => "no data".into(),
            Some(share) => {
                let sign = if share < 0 { "−" } else { "" };
                format!("{sign}{}.{}%", share.abs() / 10, share.abs() % 10)
            }
        }
    }
}

/// `$12,346`: whole dollars, half up.
pub fn dollars(cents: Cents) -> String {
    let sign = if cents < 0 { "−" } else { "" };
    format!("{sign}${}", grouped(quotient(cents.abs(), 100)))
}

/// `12,346`.
pub fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 lead`, `2 leads`.
pub fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{} {noun}s", grouped(number as i64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_rounded_half_up() {
        assert_eq!([quotient(5, 2), quotient(4, 3), quotient(5, 3), quotient(7, 0)], [3, 1, 2, 0]);
        assert_eq!(proportion(i64::MAX, 15, 100), 1_383_505_805_528_216_371);
        assert_eq!(Share::of(1, 3).text(), "33.3%");
        assert_eq!(Share::of(2, 3).text(), "66.7%");
        assert_eq!(Share::of(1, 16).text(), "6.3%");
        assert_eq!(Share::of(0, 0).text(), "no data");
        assert_eq!(Share::of_cents(-1, 3).text(), "−33.3%");
    }

    #[test]
    fn money_reads_as_on_an_invoice() {
        assert_eq!(dollars(123_456_750), "$1,234,568");
        assert_eq!(dollars(49), "$0");
        assert_eq!(dollars(99_950), "$1,000");
        assert_eq!(count(1, "job"), "1 job");
        assert_eq!(count(1200, "job"), "1,200 jobs");
    }
}
