//! Quantities of Kubernetes in bytes.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Its bytes, rounded up; none of what is no quantity of bytes, or more than there can be.
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (mut scale, mut shift) = (0_i32, 0_u32);
    match suffix {
        "" => {}
        "m" => scale = -3,
        "k" => scale = 3,
        "M" => scale = 6,
        "G" => scale = 9,
        "T" => scale = 12,
        "P" => scale = 15,
        "E" => scale = 18,
        "Ki" => shift = 10,
        "Mi" => shift = 20,
        "Gi" => shift = 30,
        "Ti" => shift = 40,
        "Pi" => shift = 50,
        "Ei" => shift = 60,
        exponent => scale = exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|e| (-9..=18).contains(e))?,
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").trim_start_matches('+').parse().ok()?;
    let scale = scale - i32::try_from(fraction.len()).ok()?;
    let scaled = digits.checked_mul(1 << shift)?;
    let power = 10_u128.checked_pow(scale.unsigned_abs())?;
    let bytes = if scale < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power)? };
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_means_them() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("10Gi", Some(10 << 30)),
            ("1.5Gi", Some(3 << 29)),
            (".5Ki", Some(512)),
            ("1G", Some(1_000_000_000)),
            ("1e3", Some(1000)),
            ("128974848", Some(128_974_848)),
            ("1500M", Some(1_500_000_000)),
            ("0.5Ki", Some(512)),
            ("1e9", Some(1_000_000_000)),
            ("1200m", Some(2)),
            ("1e999", None),
            ("12E", Some(12_000_000_000_000_000_000)),
            ("1500m", Some(2)),
            ("16Ei", None),
            ("-1", None),
            ("", None),
            ("Gi", None),
            ("1Zi", None),
            ("1.2.3", None),
        ] {
            assert_eq!(bytes(&Quantity(text.into())), wanted, "{text}");
        }
    }
}
