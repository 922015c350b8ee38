//! One row's cells, read as what their columns hold.

use csv::ByteRecord;
use time::{Date, Month};

use super::{BadFile, COLUMNS};
use crate::desk::number::Cents;

/// The most that a cell of money may hold, so that no sum overflows: a billion dollars.
const AMOUNT_MAX: Cents = 100_000_000_000;

/// The most attempts that are believed.
const ATTEMPTS_MAX: usize = 1_000;

/// The longest text in a cell, in bytes: names go into the session's events.
const TEXT_MAX: usize = 200;

/// Where each known column stands.
pub(super) struct Columns([usize; COLUMNS.len()]);

impl Columns {
    /// Finds the columns in a header.
    pub fn of(header: &ByteRecord) -> Result<Columns, BadFile> {
        let bad = |column: &'static str, why: String| BadFile { row: Some(1), column: Some(column), why };
        if header.is_empty() {
            let why = format!("it is empty; the first row names the columns: {}", COLUMNS.join(","));
            return Err(BadFile { row: None, column: None, why });
        }
        let mut places = [0; COLUMNS.len()];
        for (place, column) in places.iter_mut().zip(COLUMNS) {
            let mut found = header.iter().enumerate().filter(|(_, name)| *name == column.as_bytes()).map(|(at, _)| at);
            let all = COLUMNS.join(",");
            *place = found.next().ok_or_else(|| bad(column, format!("the header lacks it; expected: {all}")))?;
            if found.next().is_some() {
                return Err(bad(column, "the header has it twice".into()));
            }
        }
        Ok(Columns(places))
    }
}

/// The known cells of a row.
pub(super) struct Cells<'a> {
    pub row: usize,
    values: [&'a str; COLUMNS.len()],
}

impl<'a> Cells<'a> {
    /// Takes a row apart.
    pub fn of(row: usize, columns: &Columns, record: &'a ByteRecord) -> Result<Cells<'a>, BadFile> {
        let mut values = [""; COLUMNS.len()];
        for ((value, &place), column) in values.iter_mut().zip(&columns.0).zip(COLUMNS) {
            let bad = |why: &str| BadFile { row: Some(row), column: Some(column), why: why.to_owned() };
            let bytes = record.get(place).ok_or_else(|| {
                bad(&format!("the row ends before it, after {} cells; a comma may be missing", record.len()))
            })?;
            let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8; save the file as UTF-8"))?;
            if text.len() > TEXT_MAX {
                return Err(bad(&format!("it has {} bytes, more than {TEXT_MAX}", text.len())));
            }
            if text.contains(char::is_control) {
                return Err(bad("it has a line break or another control character in it"));
            }
            *value = text;
        }
        Ok(Cells { row, values })
    }

    pub fn bad(&self, column: &'static str, why: impl Into<String>) -> BadFile {
        BadFile { row: Some(self.row), column: Some(column), why: why.into() }
    }

    pub fn missing(&self, column: &'static str) -> BadFile {
        self.bad(column, format!("it is empty; a {} needs it", self.get("kind")))
    }

    fn get(&self, column: &str) -> &'a str {
        COLUMNS.iter().position(|known| *known == column).map_or("", |at| self.values[at])
    }

    /// A text that must be there.
    pub fn needed(&self, column: &'static str) -> Result<&'a str, BadFile> {
        match self.get(column) {
            "" => Err(self.missing(column)),
            text => Ok(text),
        }
    }

    /// That all cells are empty which this kind of row has no use for: a filled one is in the wrong column.
    pub fn only(&self, kind: &str, used: &[&str]) -> Result<(), BadFile> {
        for (column, value) in COLUMNS.into_iter().zip(self.values).skip(2) {
            if !value.is_empty() && !used.contains(&column) {
                return Err(self.bad(column, format!("{value:?} stands in it; it is to be empty for a {kind}")));
            }
        }
        Ok(())
    }

    /// Name, phone, mail address.
    pub fn contact(&self) -> Result<(String, String, String), BadFile> {
        Ok((self.needed("name")?.to_owned(), self.get("phone").to_owned(), self.get("email").to_owned()))
    }

    /// Which of these words.
    pub fn one_of(&self, column: &'static str, words: &[&str]) -> Result<usize, BadFile> {
        let value = self.get(column);
        let unknown = || self.bad(column, format!("{value:?} is unknown; expected: {}", words.join(", ")));
        words.iter().position(|word| *word == value).ok_or_else(unknown)
    }

    /// Which of these words, if any.
    pub fn optional_one_of(&self, column: &'static str, words: &[&str]) -> Result<Option<usize>, BadFile> {
        if self.get(column).is_empty() { Ok(None) } else { self.one_of(column, words).map(Some) }
    }

    /// `yes` or `no`.
    pub fn yes_or_no(&self, column: &'static str) -> Result<Option<bool>, BadFile> {
        Ok(self.optional_one_of(column, &["yes", "no"])?.map(|word| word == 0))
    }

    /// A day.
    pub fn date(&self, column: &'static str) -> Result<Option<Date>, BadFile> {
        match self.get(column) {
            "" => Ok(None),
            text => match parse_date(text) {
                Ok(date) => Ok(Some(date)),
                Err(why) => Err(self.bad(column, why)),
            },
        }
    }

    /// Dollars, with cents or without.
    pub fn money(&self, column: &'static str) -> Result<Option<Cents>, BadFile> {
        let text = self.get(column);
        if text.is_empty() {
            return Ok(None);
        }
        if text.starts_with('-') {
            return Err(self.bad(column, format!("{text:?} is negative; expected 0 or more")));
        }
        let bad = || self.bad(column, format!("{text:?} is no amount; expected dollars such as 8450 or 8450.00"));
        let (whole, cents) = text.split_once('.').unwrap_or((text, "00"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(cents) || cents.len() != 2 {
            return Err(bad());
        }
        let amount = format!("{whole}{cents}").parse::<Cents>().ok().filter(|amount| *amount <= AMOUNT_MAX);
        amount.map(Some).ok_or_else(|| self.bad(column, format!("{text:?} is more than a billion dollars")))
    }

    /// A count.
    pub fn whole(&self, column: &'static str) -> Result<Option<usize>, BadFile> {
        match self.get(column) {
            "" => Ok(None),
            text => match text.parse::<usize>() {
                Ok(number) if number <= ATTEMPTS_MAX => Ok(Some(number)),
                _ => {
                    Err(self.bad(column, format!("{text:?} is no count; expected a whole number up to {ATTEMPTS_MAX}")))
                }
            },
        }
    }
}

/// A day in the form 2026-03-31, from 1970 to 2199.
pub fn parse_date(text: &str) -> Result<Date, String> {
    let expected = || format!("{text:?} is no date; expected the form 2026-03-31");
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(at, b)| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() });
    if !shaped {
        return Err(expected());
    }
    let part = |range: std::ops::Range<usize>| text[range].parse::<u16>().unwrap_or(0);
    let (year, month, day) = (i32::from(part(0..4)), part(5..7) as u8, part(8..10) as u8);
    if !(1970..=2199).contains(&year) {
        return Err(format!("{text:?} is out of range; expected a year from 1970 to 2199"));
    }
    let month =
        Month::try_from(month).map_err(|_| format!("{text:?} has no such month; expected the form 2026-03-31"))?;
    Date::from_calendar_date(year, month, day).map_err(|_| format!("{text:?} is no day of the calendar"))
}
