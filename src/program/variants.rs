//! Kernels that compute the same: an op that has several for a shape lists them, with the one that its rule takes, and whoever plans
//! its launches may know better, from a table of what was measured.
//!
//! Ops ask with [`choose`] while they make their launches; the answer is that of the [`Chooser`] that [`with`] has put in force on this
//! thread, or the rule's. It is not handed through the ops' contexts: a convolution is chosen deep inside other ops.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::gpu::Precision;

/// Where an op has a choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The op whose kernels these are; a part of another op counts as itself.
    pub op: &'static str,
    /// The extents that decide how fast each is.
    pub shape: Vec<usize>,
    /// How matrix products compute, by [`Precision::suffix`].
    pub precision: &'static str,
}

impl Site {
    /// A site of this op, shape and precision.
    pub fn new(op: &'static str, shape: Vec<usize>, precision: Precision) -> Self {
        Site {
            op,
            shape,
            precision: precision.suffix(),
        }
    }
}

/// Answers what ops ask.
pub trait Chooser: fmt::Debug + Send + Sync {
    /// The index of one of the variants' names, or `None` for the one that the rule takes, `rule`.
    fn choose(&self, site: &Site, names: &[String], rule: usize) -> Option<usize>;
}

thread_local! {
    static IN_FORCE: RefCell<Option<Arc<dyn Chooser>>> = const { RefCell::new(None) };
}

/// Calls `f` with a chooser in force on this thread; without one, rules decide.
pub fn with<R>(chooser: Option<Arc<dyn Chooser>>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<dyn Chooser>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            IN_FORCE.replace(self.0.take());
        }
    }
    let _restore = Restore(IN_FORCE.replace(chooser));
    f()
}

/// One of the variants: what the chooser in force says, or the one of which `rule` is the index.
///
/// # Panics
/// If `rule` is not one of them, or a chooser answers with what is not.
pub fn choose<V: Copy>(
    site: impl FnOnce() -> Site,
    variants: &[V],
    name: impl Fn(V) -> String,
    rule: usize,
) -> V {
    let chooser = IN_FORCE.with_borrow(Clone::clone);
    let chosen = chooser.filter(|_| variants.len() > 1).and_then(|chooser| {
        let names: Vec<String> = variants.iter().map(|v| name(*v)).collect();
        chooser.choose(&site(), &names, rule)
    });
    variants[chosen.unwrap_or(rule)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Last;
    impl Chooser for Last {
        fn choose(&self, site: &Site, names: &[String], rule: usize) -> Option<usize> {
            assert_eq!((site.op, rule), ("op", 0));
            assert_eq!(names[0], "v10");
            Some(names.len() - 1)
        }
    }

    fn chosen() -> i32 {
        let site = || Site::new("op", vec![3], Precision::F32);
        choose(site, &[10, 20, 30], |v| format!("v{v}"), 0)
    }

    #[test]
    fn a_chooser_is_in_force_where_it_was_put_and_nowhere_else() {
        assert_eq!(chosen(), 10);
        let inner = with(Some(Arc::new(Last)), || {
            let rule = with(None, chosen);
            assert_eq!(rule, 10);
            chosen()
        });
        assert_eq!((inner, chosen()), (30, 10));
        let caught = std::panic::catch_unwind(|| with(Some(Arc::new(Last)), || panic!("lost")));
        assert!(caught.is_err());
        assert_eq!(chosen(), 10, "the rule is back after a panic");
    }
}
