//! Which devices can be used, and how much of their memory.

/// Of what Metal recommends at most, the tenth that activations and the system's own work are left.
const HEADROOM: u64 = 10;

/// Refuses a macOS on which candle panics: it looks up a class that came with macOS 15.
///
/// # Errors
/// What to tell the host.
pub fn check_system(has_residency_sets: bool) -> Result<(), String> {
    match has_residency_sets {
        true => Ok(()),
        false => Err("for Metal the numeric library needs macOS 15 or newer".to_owned()),
    }
}

/// Why a device cannot be used; `None` if it can. `multiplies_matrices`: whether it has the instructions that Apple's
/// own GPUs have from the M1 on.
pub fn unusable(multiplies_matrices: bool) -> Option<&'static str> {
    (!multiplies_matrices).then_some("its GPU is not one of Apple's own, from the M1 on")
}

/// Refuses an index that is none: candle panics on it.
///
/// # Errors
/// What to tell the host.
pub fn check_index(index: u32, count: usize) -> Result<usize, String> {
    let wanted = index as usize;
    match count {
        0 => Err("Metal shows no device to this process; a virtual machine may have none".to_owned()),
        _ if wanted >= count => {
            Err(format!("there is no Metal device {index}; Metal shows {count}, numbered from 0"))
        }
        _ => Ok(wanted),
    }
}

/// Bytes that weights and cache may still take.
///
/// `recommended`: the most that a process should use without being slowed down, as Metal says, which is less than the
/// machine has; 0 where it does not say. `allocated`: what this process has taken on the device.
pub fn free_bytes(recommended: u64, allocated: u64) -> Option<u64> {
    match recommended {
        0 => None,
        most => Some((most - most / HEADROOM).saturating_sub(allocated)),
    }
}

/// The newest of Apple's families that a device belongs to, as `apple7`; those before it are included in it.
pub fn family(belongs: impl Fn(u32) -> bool) -> String {
    let newest = (1..=15).rev().find(|family| belongs(*family));
    newest.map_or_else(|| "metal".to_owned(), |family| format!("apple{family}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_candle_cannot_use_says_why() {
        assert_eq!(check_system(true), Ok(()));
        assert!(check_system(false).is_err_and(|why| why.contains("macOS 15")));
        assert_eq!(unusable(true), None);
        assert!(unusable(false).is_some_and(|why| why.contains("M1")));
    }

    #[test]
    fn an_index_is_checked_against_what_there_is() {
        assert_eq!(check_index(0, 1), Ok(0));
        assert_eq!(check_index(1, 2), Ok(1));
        assert!(check_index(1, 1).is_err_and(|why| why.contains("no Metal device 1; Metal shows 1")));
        assert!(check_index(0, 0).is_err_and(|why| why.contains("virtual machine")));
        assert!(check_index(u32::MAX, 1).is_err());
    }

    #[test]
    fn memory_is_what_metal_recommends_less_what_is_taken() {
        let check = |recommended, allocated, expected| {
            assert_eq!(free_bytes(recommended, allocated), expected, "{recommended} {allocated}");
        };
        check(10_000, 0, Some(9_000));
        check(10_000, 4_000, Some(5_000));
        check(10_000, 9_500, Some(0));
        check(10_000, u64::MAX, Some(0));
        check(u64::MAX, 0, Some(u64::MAX - u64::MAX / 10));
        check(0, 0, None);
    }

    #[test]
    fn the_newest_family_counts() {
        assert_eq!(family(|family| family <= 8), "apple8");
        assert_eq!(family(|_| false), "metal");
    }
}
