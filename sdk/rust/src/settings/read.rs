//! From a JSON value to the type of some settings.
//!
//! A fault goes outwards from the value in which it is found, and each sequence and map on its way adds where that is.
//! So a component has the parser once, and not once more for each type of its settings, as it has if the path is kept
//! while the text is read (as `serde_path_to_error` does): a fifth of all that the host compiles of a small policy.

use std::iter::Enumerate;
use std::slice;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::fault::Fault;
use super::json::Json;

macro_rules! strictly {
    ($($function:ident: |$visitor:ident| { $($pattern:pat => $visit:expr),* })*) => {$(
        fn $function<V: Visitor<'de>>(self, $visitor: V) -> Result<V::Value, Fault> {
            match self {
                $($pattern => $visit,)*
                found => Err(Fault::mismatch(found, &$visitor)),
            }
        }
    )*};
}

macro_rules! numbers {
    ($($function:ident)*) => {
        strictly! {$(
            $function: |visitor| {
                Json::Unsigned(found) => visitor.visit_u64(*found),
                Json::Signed(found) => visitor.visit_i64(*found),
                Json::Float(found) => visitor.visit_f64(*found)
            }
        )*}
    };
}

/// Strict: a number is no text, and a sequence is no record, though serde would take its items for the fields.
impl<'de> Deserializer<'de> for &'de Json {
    type Error = Fault;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    strictly! {
        deserialize_bool: |visitor| { Json::Bool(found) => visitor.visit_bool(*found) }
        deserialize_char: |visitor| { Json::Text(found) => visitor.visit_borrowed_str(found) }
        deserialize_str: |visitor| { Json::Text(found) => visitor.visit_borrowed_str(found) }
        deserialize_string: |visitor| { Json::Text(found) => visitor.visit_borrowed_str(found) }
        deserialize_identifier: |visitor| { Json::Text(found) => visitor.visit_borrowed_str(found) }
        deserialize_seq: |visitor| { Json::List(found) => items(found, visitor) }
        deserialize_map: |visitor| { Json::Mapping(found) => fields(found, visitor) }
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self {
            Json::Null => visitor.visit_unit(),
            Json::Bool(found) => visitor.visit_bool(*found),
            Json::Unsigned(found) => visitor.visit_u64(*found),
            Json::Signed(found) => visitor.visit_i64(*found),
            Json::Float(found) => visitor.visit_f64(*found),
            Json::Text(found) => visitor.visit_borrowed_str(found),
            Json::List(found) => items(found, visitor),
            Json::Mapping(found) => fields(found, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if matches!(self, Json::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self {
            Json::Mapping(found) => fields(found, visitor),
            // What the code calls it says nothing to whoever wrote the settings.
            found => Err(Fault::mismatch(found, &"a mapping")),
        }
    }

    /// The name of a variant, or a map with that as its one field.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self {
            Json::Text(name) => visitor.visit_enum(Variant { name, value: &Json::Null }),
            Json::Mapping(fields) if let [(name, value)] = fields.as_slice() => {
                visitor.visit_enum(Variant { name, value })
            }
            _ => Err(Fault::mismatch(self, &visitor)),
        }
    }

    forward_to_deserialize_any! { bytes byte_buf unit ignored_any }
}

fn items<'de, V: Visitor<'de>>(found: &'de [Json], visitor: V) -> Result<V::Value, Fault> {
    let mut items = Items(found.iter().enumerate());
    let read = visitor.visit_seq(&mut items)?;
    if items.0.len() == 0 { Ok(read) } else { Err(Fault::invalid_length(found.len(), &"fewer items")) }
}

fn fields<'de, V: Visitor<'de>>(found: &'de [(String, Json)], visitor: V) -> Result<V::Value, Fault> {
    let mut fields = Fields { left: found.iter(), value: None };
    let read = visitor.visit_map(&mut fields)?;
    if fields.left.len() == 0 { Ok(read) } else { Err(Fault::invalid_length(found.len(), &"fewer fields")) }
}

struct Items<'de>(Enumerate<slice::Iter<'de, Json>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((n, item)) = self.0.next() else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|fault| fault.within(&n.to_string()))
    }
}

struct Fields<'de> {
    left: slice::Iter<'de, (String, Json)>,
    /// Of the field whose name was read.
    value: Option<(&'de str, &'de Json)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        self.value = Some((name, value));
        seed.deserialize(Name(name)).map(Some).map_err(|fault| fault.within(name))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let (name, value) = self.value.take().ok_or_else(|| Fault::custom("a value was read before its name"))?;
        seed.deserialize(value).map_err(|fault| fault.within(name))
    }
}

/// The name of a field, which a type may want as a number.
struct Name<'de>(&'de str);

macro_rules! numbered {
    ($($function:ident)*) => {$(
        fn $function<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match (self.0.parse(), self.0.parse()) {
                (Ok(found), _) => visitor.visit_u64(found),
                (_, Ok(found)) => visitor.visit_i64(found),
                _ => visitor.visit_borrowed_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Name<'de> {
    type Error = Fault;

    numbered! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(Variant { name: self.0, value: &Json::Null })
    }

    forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// One of several, by its name; with a value, or null.
struct Variant<'de> {
    name: &'de str,
    value: &'de Json,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Fault> {
        Ok((seed.deserialize(Name(self.name))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        if matches!(self.value, Json::Null) {
            Ok(())
        } else {
            Err(Fault::mismatch(self.value, &"nothing").within(self.name))
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.value).map_err(|fault| fault.within(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.value.deserialize_seq(visitor).map_err(|fault| fault.within(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.value.deserialize_map(visitor).map_err(|fault| fault.within(self.name))
    }
}
