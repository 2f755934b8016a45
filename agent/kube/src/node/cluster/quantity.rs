//! Quantities of Kubernetes, as bytes.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// `10Gi`, `1500M`, `1e9`, `0.5Ti`; rounded up. None of a text that is none.
pub(super) fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let end = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024_f64,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?.into()),
    };
    // Whole numbers of binary units, which is what there is, are exact below 8 PiB.
    let bytes = number.parse::<f64>().ok()? * factor;
    #[allow(clippy::cast_sign_loss, reason = "it has no sign")]
    (bytes.is_finite() && bytes < 9e18).then(|| bytes.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, wanted) in [
            ("128974848", Some(128_974_848)),
            ("10Gi", Some(10 << 30)),
            ("1500M", Some(1_500_000_000)),
            ("0.5Ki", Some(512)),
            ("1e9", Some(1_000_000_000)),
            ("1200m", Some(2)),
            ("", None),
            ("-1", None),
            ("1Zi", None),
            ("1e999", None),
        ] {
            assert_eq!(bytes(&Quantity(text.into())), wanted, "{text}");
        }
    }
}
