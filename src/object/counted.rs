//! Pure: numbers of things in sentences for people.

/// `1 file`, `2 files`: of nouns that take an s.
pub fn counted(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_one_thing() {
        let all = [0, 1, 2].map(|count| counted(count, "file"));
        assert_eq!(all, ["0 files", "1 file", "2 files"]);
    }
}
