//! Bag-of-words sentiment: the sum of the words' weights, negated and intensified
//! by the words before them, through the logistic function.
//!
//! Never remembers anything: equal texts score equally, in every version.

/// A negation turns round the weights of this many words after it.
const NEGATION_REACH: usize = 3;
/// "Not good" is less bad than "bad" (the damping of VADER, Hutto and Gilbert 2014).
const NEGATION: f64 = -0.74;
/// "Very good" is better than "good" (ibid.).
const INTENSIFIED: f64 = 1.3;

/// What a text was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Score below 0.4.
    Negative,
    /// Score from 0.4 to 0.6.
    Neutral,
    /// Score above 0.6.
    Positive,
}

impl Label {
    /// As it stands in an answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Negative => "negative",
            Self::Neutral => "neutral",
            Self::Positive => "positive",
        }
    }
}

/// A score in (0, 1), 0.5 being neutral, and its label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sentiment {
    /// Near 0 is negative, near 1 positive.
    pub score: f64,
    /// The score in a word.
    pub label: Label,
}

impl Sentiment {
    /// Scores a text.
    pub fn of(text: &str) -> Self {
        let score = 1.0 / (1.0 + (-raw_sum(text)).exp());
        let label = match score {
            score if score < 0.4 => Label::Negative,
            score if score > 0.6 => Label::Positive,
            _ => Label::Neutral,
        };
        Self { score, label }
    }
}

fn raw_sum(text: &str) -> f64 {
    let mut sum = 0.0;
    let mut negated = 0_usize;
    let mut factor = 1.0;
    for word in words(text) {
        if NEGATIONS.contains(&word.as_str()) {
            negated = NEGATION_REACH;
        } else if INTENSIFIERS.contains(&word.as_str()) {
            factor *= INTENSIFIED;
        } else {
            let sign = if negated > 0 { NEGATION } else { 1.0 };
            sum += sign * factor * weight(&word);
            negated = negated.saturating_sub(1);
            factor = 1.0;
        }
    }
    sum
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

fn weight(word: &str) -> f64 {
    WEIGHTS.binary_search_by_key(&word, |entry| entry.0).map_or(0.0, |index| WEIGHTS[index].1)
}

const NEGATIONS: &[&str] = &[
    "not", "no", "never", "none", "nothing", "isn't", "wasn't", "don't", "doesn't", "didn't",
    "can't", "couldn't", "won't", "wouldn't", "hardly", "without",
];

const INTENSIFIERS: &[&str] =
    &["very", "really", "extremely", "absolutely", "so", "totally", "incredibly"];

/// Sorted by word, for the binary search.
const WEIGHTS: &[(&str, f64)] = &[
    ("amazing", 1.9),
    ("annoying", -1.3),
    ("awesome", 1.9),
    ("awful", -1.9),
    ("bad", -1.5),
    ("beautiful", 1.6),
    ("best", 1.9),
    ("better", 0.8),
    ("boring", -1.2),
    ("bright", 0.6),
    ("brilliant", 1.7),
    ("broken", -1.4),
    ("charming", 1.2),
    ("cheap", -0.4),
    ("clean", 0.6),
    ("comfortable", 0.9),
    ("delight", 1.5),
    ("delightful", 1.7),
    ("dirty", -1.0),
    ("disappointed", -1.5),
    ("disappointing", -1.5),
    ("dull", -1.0),
    ("easy", 0.7),
    ("enjoy", 1.2),
    ("enjoyed", 1.3),
    ("excellent", 1.9),
    ("fail", -1.3),
    ("failed", -1.3),
    ("fantastic", 1.8),
    ("fast", 0.6),
    ("fine", 0.5),
    ("friendly", 1.1),
    ("fun", 1.1),
    ("funny", 0.9),
    ("glad", 1.1),
    ("good", 1.2),
    ("great", 1.6),
    ("happy", 1.3),
    ("hate", -1.8),
    ("hated", -1.8),
    ("helpful", 1.1),
    ("horrible", -1.9),
    ("impressive", 1.3),
    ("like", 0.5),
    ("liked", 0.8),
    ("lost", -0.7),
    ("love", 1.7),
    ("loved", 1.7),
    ("mess", -1.1),
    ("nice", 0.9),
    ("noisy", -0.8),
    ("perfect", 1.9),
    ("pleasant", 1.0),
    ("poor", -1.2),
    ("problem", -0.8),
    ("recommend", 1.1),
    ("refund", -1.0),
    ("rude", -1.4),
    ("sad", -1.0),
    ("slow", -0.8),
    ("terrible", -1.9),
    ("thank", 0.7),
    ("thanks", 0.7),
    ("ugly", -1.1),
    ("useful", 1.0),
    ("useless", -1.6),
    ("waste", -1.5),
    ("wonderful", 1.8),
    ("worse", -1.3),
    ("worst", -2.0),
    ("wrong", -1.1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, label: Label) {
        let found = Sentiment::of(text);
        assert_eq!(found.label, label, "{text:?} scored {}", found.score);
    }

    #[test]
    fn texts_are_labelled() {
        check("A wonderful film, I loved it", Label::Positive);
        check("The worst hotel. Rude, dirty, NOISY!", Label::Negative);
        check("It arrived on Tuesday", Label::Neutral);
        check("", Label::Neutral);
        check("...!?", Label::Neutral);
    }

    #[test]
    fn a_negation_turns_the_words_after_it() {
        check("not good", Label::Negative);
        check("it wasn't bad at all", Label::Positive);
        check("not one two three good", Label::Positive);
    }

    #[test]
    fn an_intensifier_strengthens_the_next_word() {
        assert!(Sentiment::of("very good").score > Sentiment::of("good").score);
        assert!(Sentiment::of("very bad").score < Sentiment::of("bad").score);
    }

    #[test]
    fn the_score_is_the_logistic_of_the_sum() {
        let expected = 1.0 / (1.0 + (-1.2_f64).exp());
        assert!((Sentiment::of("good").score - expected).abs() < 1e-12);
    }

    #[test]
    fn the_table_is_sorted_without_repeats() {
        assert!(WEIGHTS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
