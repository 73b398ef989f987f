//! The known word that a mistyped one is most likely meant to be.

/// The candidate with the fewest differing letters, if it is near enough to be meant.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let limit = (word.chars().count() / 3).max(2);
    let near = candidates.into_iter().map(|candidate| {
        // A forgotten unit counts for nothing.
        let bare = candidate.strip_suffix("_ms").or_else(|| candidate.strip_suffix("_s")).unwrap_or(candidate);
        (distance(word, candidate).min(distance(word, bare)), candidate)
    });
    near.filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, drop or change to get from one word to the other (Levenshtein), row by row.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (other, above) in to.chars().zip(row.iter().copied().skip(1)) {
            left = (diagonal + usize::from(letter != other)).min(above + 1).min(left + 1);
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in [("", "abc", 3), ("abc", "", 3), ("wait", "wait_s", 2), ("kitten", "sitting", 3)] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn finds_only_what_may_be_meant() {
        let known = ["wait_s", "provisional", "push_when"];
        assert_eq!(nearest("wait", known), Some("wait_s"));
        assert_eq!(nearest("wat", known), Some("wait_s"));
        assert_eq!(nearest("push_wen", known), Some("push_when"));
        assert_eq!(nearest("colour", known), None);
    }
}
