//! The table at the end.

use super::line::{Line, Tone, WIDTH};
use super::phone::Wake;

/// What came of one story.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) title: &'static str,
    pub(super) calls: usize,
    pub(super) pushes: usize,
    pub(super) wakes: Vec<Wake>,
    /// In a few words; `None` when it did not go as told.
    pub(super) result: Option<&'static str>,
}

/// Letters of the column of wakes.
const WAKES: usize = 12;

/// One line for each story.
pub(super) fn table(stories: &[Told]) -> Vec<Line> {
    let heading = format!("   {:<36}{:>5}{:>8}  {:<13}{}", "story", "calls", "pushes", "wake-up, ms", "result");
    let mut lines = vec![Line::of(&heading, Tone::Strong), Line::of(&"─".repeat(WIDTH), Tone::Faint)];
    for (number, told) in (1..).zip(stories) {
        let wake = |wake: &Wake| format!("{}+{}", wake.phone.as_millis(), wake.register.as_millis());
        let all = told.wakes.iter().map(wake).collect::<Vec<_>>().join(" ");
        // A busy machine takes longer, also to write it: then the slowest one.
        let slowest = || told.wakes.iter().max_by_key(|wake| wake.phone + wake.register).map(wake).unwrap_or_default();
        let wakes = if all.len() > WAKES { slowest() } else { all };
        let row = format!("{number}  {:<36}{:>5}{:>8}  {wakes:<13}", told.title, told.calls, told.pushes);
        let (result, tone) = told.result.map_or(("failed", Tone::Bad), |result| (result, Tone::Good));
        lines.push(Line::of(&row, Tone::Plain).then(result, tone));
    }
    lines.push(Line::of(
        "   wake-up: from push to REGISTER (set by the script) + from REGISTER to its 200",
        Tone::Faint,
    ));
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let millis = Duration::from_millis;
        let told = |wakes: &[(u64, u64)], result| Told {
            title: "A call wakes it",
            calls: 1,
            pushes: 2,
            wakes: wakes.iter().map(|(phone, rest)| Wake { phone: millis(*phone), register: millis(*rest) }).collect(),
            result,
        };
        let busy = told(&[(253, 164), (302, 120)], Some("answered once"));
        let lines = table(&[told(&[(352, 3), (301, 2)], Some("answered")), told(&[], None), busy]);
        let text: Vec<_> = lines.iter().map(|line| line.render(false)).collect();
        assert_eq!(
            text.get(..5).unwrap(),
            [
                "   story                               calls  pushes  wake-up, ms  result",
                &"─".repeat(80),
                "1  A call wakes it                         1       2  352+3 301+2  answered",
                "2  A call wakes it                         1       2               failed",
                "3  A call wakes it                         1       2  302+120      answered once",
            ]
        );
        assert!(text.iter().all(|line| line.chars().count() <= WIDTH));
    }
}
