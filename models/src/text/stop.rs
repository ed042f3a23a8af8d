//! Ends a text at given strings, wherever tokens and characters begin and end.

/// Streams a text up to the first of its stop strings. What may be the beginning of one is held back.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Without strings, or with empty ones alone, the whole text passes.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece of the text. Gives what may be shown, and whether a stop string has ended the text; the
    /// string itself and what follows it are dropped.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let tail = self.held.split_off(self.n_free());
        (std::mem::replace(&mut self.held, tail), false)
    }

    /// What is held back, for a text that ends otherwise.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the held text that no stop string can begin in.
    fn n_free(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let begins = |at: usize| {
            self.held.get(from + at..).is_some_and(|tail| self.stops.iter().any(|stop| stop.starts_with(tail)))
        };
        let n_tail = self.held.len() - from;
        (0..n_tail).find(|&at| begins(at)).map_or(self.held.len(), |at| from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a text that comes in pieces, what is flushed at its end, and whether it was stopped.
    fn stream(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut stream = StopStrings::new(&stops);
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, ended) = stream.push(piece);
            shown.push(text);
            if ended {
                return (shown, stream.finish(), true);
            }
        }
        (shown, stream.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_never_shown() {
        let (shown, rest, stopped) = stream(&["</s>"], &["ab<", "/", "s", ">c"]);
        assert_eq!((shown.concat().as_str(), rest.as_str(), stopped), ("ab", "", true));
        assert_eq!(shown[0], "ab", "nothing more is held back than must be");
        let (shown, rest, stopped) = stream(&["</s>"], &["ab<", "/", "x<", "/s"]);
        assert_eq!(
            (shown, rest.as_str(), stopped),
            (vec!["ab".into(), "".into(), "</x".into(), "".into()], "</s", false)
        );
    }

    #[test]
    fn the_first_of_several_wins_and_characters_stay_whole() {
        let (shown, _, stopped) = stream(&["world", "lo"], &["hel", "lo world"]);
        assert_eq!((shown.concat().as_str(), stopped), ("hel", true));
        let (shown, _, stopped) = stream(&["né"], &["an", "ñn", "éb"]);
        assert_eq!((shown.concat().as_str(), stopped), ("anñ", true));
        let (shown, rest, stopped) = stream(&["日本"], &["日", "日本"]);
        assert_eq!((shown.concat().as_str(), rest.as_str(), stopped), ("日", "", true));
    }

    #[test]
    fn a_beginning_that_repeats_is_not_lost() {
        let (shown, _, stopped) = stream(&["aab"], &["a", "a", "a", "b"]);
        assert_eq!((shown.concat().as_str(), stopped), ("a", true));
    }

    #[test]
    fn without_strings_everything_passes() {
        let (shown, rest, stopped) = stream(&["", ""], &["ab", "c"]);
        assert_eq!((shown, rest.as_str(), stopped), (vec!["ab".to_owned(), "c".to_owned()], "", false));
    }
}
