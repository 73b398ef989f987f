//! The table at the end.

use std::time::Duration;

use super::ladder::{Line, Tone, WIDTH};

/// What came of one story.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) title: &'static str,
    pub(super) calls: usize,
    pub(super) pushes: usize,
    /// From push to accepted REGISTER, for each phone that woke.
    pub(super) wakes: Vec<Duration>,
    /// In a few words; `None` when it did not go as told.
    pub(super) result: Option<&'static str>,
}

/// One line for each story.
pub(super) fn table(stories: &[Told]) -> Vec<Line> {
    let heading = format!("   {:<37}{:>5}{:>8}  {:<12}{}", "story", "calls", "pushes", "woken in ms", "result");
    let mut lines = vec![Line::of(&heading, Tone::Strong), Line::of(&"─".repeat(WIDTH), Tone::Faint)];
    for (number, told) in (1..).zip(stories) {
        let wakes: Vec<_> = told.wakes.iter().map(|wake| wake.as_millis().to_string()).collect();
        let wakes = if wakes.is_empty() { "-".to_owned() } else { wakes.join(", ") };
        let row = format!("{number}  {:<37}{:>5}{:>8}  {wakes:<12}", told.title, told.calls, told.pushes);
        let (result, tone) = told.result.map_or(("failed", Tone::Bad), |result| (result, Tone::Good));
        lines.push(Line::of(&row, Tone::Plain).then(result, tone));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let told = |wakes: &[u64], result| Told {
            title: "A call wakes it",
            calls: 1,
            pushes: 2,
            wakes: wakes.iter().map(|wake| Duration::from_millis(*wake)).collect(),
            result,
        };
        let lines = table(&[told(&[352, 301], Some("answered")), told(&[], None)]);
        let text: Vec<_> = lines.iter().map(|line| line.render(false)).collect();
        assert_eq!(
            text,
            [
                "   story                                calls  pushes  woken in ms result",
                &"─".repeat(80),
                "1  A call wakes it                          1       2  352, 301    answered",
                "2  A call wakes it                          1       2  -           failed",
            ]
        );
    }
}
