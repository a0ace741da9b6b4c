//! What may be said in a word, or in a table of a file.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// Reads one of the two, and makes of it what is asked for; `expecting` says in an error what
/// it might have been.
pub(super) fn word_or_parts<'de, D: Deserializer<'de>, P: Deserialize<'de>, T>(
    deserializer: D,
    expecting: &'static str,
    of_word: fn(String) -> T,
    of_parts: fn(P) -> T,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Reader { expecting, of_word, of_parts })
}

struct Reader<P, T> {
    expecting: &'static str,
    of_word: fn(String) -> T,
    of_parts: fn(P) -> T,
}

impl<'de, P: Deserialize<'de>, T> Visitor<'de> for Reader<P, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E>(self, word: &str) -> Result<T, E> {
        Ok((self.of_word)(word.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        P::deserialize(MapAccessDeserializer::new(map)).map(self.of_parts)
    }
}
