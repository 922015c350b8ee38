//! What the crew can do, as a user says it: "capacity is 6 jobs a month".

/// The most that is believed.
const MAX: usize = 500;

/// Reads a steer. The error is a reason that its sender can act on.
pub fn parse(text: &str) -> Result<usize, String> {
    const HOW: &str = "say it like this: capacity is 6 jobs a month";
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '−' | ',')).collect();
    let words: Vec<&str> =
        words.into_iter().map(|word| word.trim_end_matches(['.', ','])).filter(|w| !w.is_empty()).collect();
    let says = |known: &[&str]| words.iter().any(|word| known.contains(word));
    let numbers: Vec<&&str> = words.iter().filter(|word| word.contains(|c: char| c.is_ascii_digit())).collect();
    if !says(&["capacity", "job", "jobs", "crew"]) {
        return Err(format!("only the crew's capacity can be changed; {HOW}"));
    }
    if says(&["week", "weekly", "day", "daily", "year", "yearly", "quarter", "block"]) {
        return Err(format!("the road map counts by the month; {HOW}"));
    }
    let number = match numbers[..] {
        [] => return Err(format!("there is no number in it; {HOW}")),
        [number] => number,
        _ => return Err(format!("there is more than one number in it; {HOW}")),
    };
    match number.parse::<usize>() {
        Ok(capacity) if (1..=MAX).contains(&capacity) => Ok(capacity),
        _ => Err(format!("{number} is no number of jobs from 1 to {MAX}; {HOW}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_is_understood_in_the_words_people_use() {
        for text in ["capacity is 6 jobs a month", "Capacity: 6", "6 jobs a month.", "the crew can do 6", "CAPACITY=6"]
        {
            assert_eq!(parse(text), Ok(6), "{text}");
        }
    }

    #[test]
    fn what_is_no_capacity_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "only the crew's capacity"),
            ("make it pop", "only the crew's capacity"),
            ("more jobs", "no number"),
            ("from 6 to 8 jobs", "more than one number"),
            ("capacity is 0", "0 is no number of jobs"),
            ("capacity is -3", "-3 is no number"),
            ("capacity is 2.5", "2.5 is no number"),
            ("capacity is 99999999999999999999", "is no number of jobs"),
            ("capacity is 2 jobs a week", "by the month"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(why), "{text}: {reason}");
        }
    }
}
