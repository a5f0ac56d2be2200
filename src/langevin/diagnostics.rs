//! Whether chains mix: effective sample sizes, R-hat and autocorrelation of traces.
//!
//! A trace is one number per draw (an energy, a coordinate) for each of several chains of equal length. The estimators are those of
//! Vehtari, Gelman, Simpson, Carpenter and Buerkner, "Rank-normalization, folding, and localization: an improved R-hat" (Bayesian Analysis,
//! 2021), with Geyer's initial monotone sequence for autocorrelations; numbers agree with ArviZ (tested on its own).

/// What is wrong with a set of traces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TraceError(String);

/// Fewest draws of a chain: a half has to have an autocorrelation.
pub const MIN_DRAWS: usize = 8;

/// Traces of one quantity: chains of equal length.
#[derive(Clone, Debug)]
pub struct Traces {
    /// Draw after draw, chain after chain.
    values: Vec<f64>,
    draws: usize,
}

impl Traces {
    /// Takes chains of equal length.
    ///
    /// # Errors
    /// No chain, fewer than [`MIN_DRAWS`] draws, unequal lengths, or a number that is not finite.
    pub fn new(chains: &[Vec<f64>]) -> Result<Self, TraceError> {
        let Some(first) = chains.first() else {
            return Err(TraceError("there is no chain".into()));
        };
        if first.len() < MIN_DRAWS {
            return Err(TraceError(format!(
                "a chain has {} draws, and at least {MIN_DRAWS} are needed",
                first.len()
            )));
        }
        for (i, chain) in chains.iter().enumerate() {
            if chain.len() != first.len() {
                return Err(TraceError(format!(
                    "chain {i} has {} draws and chain 0 has {}",
                    chain.len(),
                    first.len()
                )));
            }
            if let Some(draw) = chain.iter().position(|v| !v.is_finite()) {
                return Err(TraceError(format!(
                    "draw {draw} of chain {i} is not a number"
                )));
            }
        }
        Ok(Traces {
            values: chains.concat(),
            draws: first.len(),
        })
    }

    fn chains(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.draws)
    }

    /// The halves of every chain, without the middle draw of an odd number.
    fn split(&self) -> Traces {
        let half = self.draws / 2;
        let halves = self
            .chains()
            .flat_map(|c| [&c[..half], &c[self.draws - half..]]);
        Traces {
            values: halves.flatten().copied().collect(),
            draws: half,
        }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Traces {
        Traces {
            values: self.values.iter().map(|v| f(*v)).collect(),
            draws: self.draws,
        }
    }

    /// Each number as the normal quantile of its rank among all (ties share their mean rank).
    fn rank_normalised(&self) -> Traces {
        let count = self.values.len();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| self.values[a].total_cmp(&self.values[b]));
        let mut values = vec![0.0; count];
        let mut start = 0;
        while start < count {
            let value = self.values[order[start]];
            let ties = order[start..]
                .iter()
                .take_while(|&&i| self.values[i] == value);
            let end = start + ties.count();
            // Ranks count from one; the tied ones are start + 1 ..= end. Offsets after Blom (1958).
            let rank = (start + 1 + end) as f64 / 2.0;
            let z = normal_quantile((rank - 0.375) / (count as f64 + 0.25));
            order[start..end].iter().for_each(|&i| values[i] = z);
            start = end;
        }
        Traces {
            values,
            draws: self.draws,
        }
    }

    /// The mean of all draws.
    pub fn mean(&self) -> f64 {
        mean(&self.values)
    }

    /// The standard deviation of all draws.
    pub fn deviation(&self) -> f64 {
        variance(&self.values).sqrt()
    }

    /// The effective number of independent draws for the mean of what the trace itself holds.
    pub fn ess_mean(&self) -> f64 {
        self.split().effective()
    }

    /// The effective number of draws for location: of the rank-normalised trace.
    pub fn ess_bulk(&self) -> f64 {
        self.split().rank_normalised().effective()
    }

    /// The effective number of draws for the tails: the smaller of those for the 5% and the 95% quantile.
    pub fn ess_tail(&self) -> f64 {
        let sorted = self.sorted();
        let of = |p: f64| {
            let quantile = quantile(&sorted, p);
            let below = self.map(|v| f64::from(u8::from(v <= quantile)));
            below.split().effective()
        };
        of(0.05).min(of(0.95))
    }

    /// Rank-normalised split R-hat: the larger of that for location and that for scale. Near 1 when chains agree; above 1.01 they do
    /// not yet.
    pub fn rhat(&self) -> f64 {
        let split = self.split();
        let median = quantile(&split.sorted(), 0.5);
        let folded = split.map(|v| (v - median).abs());
        let of = |t: &Traces| t.rank_normalised().potential_scale_reduction();
        of(&split).max(of(&folded))
    }

    /// The Monte Carlo standard error of the mean.
    pub fn mcse_mean(&self) -> f64 {
        self.deviation() / self.ess_mean().sqrt()
    }

    /// The integrated autocorrelation time in draws: how many draws count as one for the mean.
    pub fn autocorrelation_time(&self) -> f64 {
        self.values.len() as f64 / self.ess_mean()
    }

    /// Autocorrelations at lags `0..=lags` (fewer if the chains are shorter), averaged over chains.
    pub fn autocorrelation(&self, lags: usize) -> Vec<f64> {
        let lags = lags.min(self.draws - 1);
        let at = |lag: usize| self.chains().map(|c| autocovariance(c, lag)).sum::<f64>();
        let zero = at(0);
        (0..=lags)
            .map(|lag| if zero > 0.0 { at(lag) / zero } else { 1.0 })
            .collect()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Means and unbiased variances of the chains.
    fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        self.chains().map(|c| (mean(c), variance(c))).unzip()
    }

    /// The classic R-hat of Gelman and Rubin.
    fn potential_scale_reduction(&self) -> f64 {
        let (means, variances) = self.moments();
        let (between, within) = (variance(&means), mean(&variances));
        if within == 0.0 && between == 0.0 {
            return 1.0;
        }
        let n = self.draws as f64;
        (between / within + (n - 1.0) / n).sqrt()
    }

    /// Draws over the integrated autocorrelation time, by Geyer's initial monotone positive sequence of pairs.
    fn effective(&self) -> f64 {
        let count = self.values.len() as f64;
        let (low, high) =
            (self.values.iter()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        if high - low < 1e-15 {
            return count;
        }
        let n = self.draws as f64;
        let (means, variances) = self.moments();
        let within = mean(&variances);
        let mut total = within * (n - 1.0) / n;
        if means.len() > 1 {
            total += variance(&means);
        }
        let correlation = |lag: usize| {
            let covariances = self.chains().map(|c| autocovariance(c, lag)).sum::<f64>();
            1.0 - (within - covariances / means.len() as f64) / total
        };
        // Sums of neighbours at lags (2k, 2k + 1) are positive and fall for a reversible chain: what is not is noise.
        let mut last = (1.0, correlation(1));
        let mut sums = Vec::new();
        let mut lag = 2;
        while lag + 2 < self.draws && last.0 + last.1 > 0.0 {
            sums.push(last.0 + last.1);
            last = (correlation(lag), correlation(lag + 1));
            lag += 2;
        }
        // Of the last pair the even lag alone counts, unless the pair is all noise.
        let end = match last.0 > 0.0 || last.0 + last.1 >= 0.0 {
            true => last.0,
            false => 0.0,
        };
        for k in 1..sums.len() {
            sums[k] = sums[k].min(sums[k - 1]);
        }
        let tau = -1.0 + 2.0 * sums.iter().sum::<f64>() + end;
        count / tau.max(1.0 / count.log10())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// With one degree of freedom taken by the mean.
fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    let squares = values.iter().map(|v| (v - centre).powi(2)).sum::<f64>();
    squares / (values.len() - 1) as f64
}

/// At one lag, divided by the number of draws whatever the lag.
fn autocovariance(chain: &[f64], lag: usize) -> f64 {
    let centre = mean(chain);
    let products = chain.iter().zip(&chain[lag..]);
    let sum = products
        .map(|(a, b)| (a - centre) * (b - centre))
        .sum::<f64>();
    sum / chain.len() as f64
}

/// Linear between order statistics.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (at - below as f64) * (sorted[above] - sorted[below])
}

/// The quantile function of the standard normal law, to double precision, for `p` between 1e-11 and its complement: Wichura,
/// "Algorithm AS 241" (Applied Statistics, 1988).
fn normal_quantile(p: f64) -> f64 {
    const CENTRE: [[f64; 8]; 2] = [
        [
            2.509_080_928_730_122_7e3,
            3.343_057_558_358_813e4,
            6.726_577_092_700_87e4,
            4.592_195_393_154_987e4,
            1.373_169_376_550_946e4,
            1.971_590_950_306_551_3e3,
            1.331_416_678_917_843_8e2,
            3.387_132_872_796_366_5,
        ],
        [
            5.226_495_278_852_854e3,
            2.872_908_573_572_194_3e4,
            3.930_789_580_009_271e4,
            2.121_379_430_158_659_7e4,
            5.394_196_021_424_751e3,
            6.871_870_074_920_579e2,
            4.231_333_070_160_091e1,
            1.0,
        ],
    ];
    const TAIL: [[f64; 8]; 2] = [
        [
            7.745_450_142_783_414e-4,
            2.272_384_498_926_918_4e-2,
            2.417_807_251_774_506e-1,
            1.270_458_252_452_368_4,
            3.647_848_324_763_204_5,
            5.769_497_221_460_691,
            4.630_337_846_156_546,
            1.423_437_110_749_683_5,
        ],
        [
            1.050_750_071_644_416_9e-9,
            5.475_938_084_995_345e-4,
            1.519_866_656_361_645_7e-2,
            1.481_039_764_274_800_8e-1,
            6.897_673_349_851e-1,
            1.676_384_830_183_803_8,
            2.053_191_626_637_759,
            1.0,
        ],
    ];
    let ratio = |c: &[[f64; 8]; 2], r: f64| {
        let [above, below] = c.map(|c| c.iter().fold(0.0, |sum, k| sum * r + k));
        above / below
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&CENTRE, 0.180_625 - q * q);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    ratio(&TAIL, r - 1.6).copysign(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        chains: Vec<Vec<f64>>,
        ess_bulk: f64,
        ess_tail: f64,
        ess_mean: f64,
        rhat: Option<f64>,
        mcse_mean: f64,
    }

    #[derive(serde::Deserialize)]
    struct Fixture {
        cases: Vec<Case>,
    }

    #[test]
    fn numbers_are_those_of_arviz() {
        let text = include_str!("../../tests/fixtures/arviz.json");
        let fixture: Fixture = serde_json::from_str(text).unwrap();
        assert!(fixture.cases.len() >= 10);
        let mut wrong = Vec::new();
        for case in fixture.cases {
            let traces = Traces::new(&case.chains).unwrap();
            let rhat = case.rhat.map(|r| ("R-hat", traces.rhat(), r));
            let pairs = [
                ("bulk ESS", traces.ess_bulk(), case.ess_bulk),
                ("tail ESS", traces.ess_tail(), case.ess_tail),
                ("mean ESS", traces.ess_mean(), case.ess_mean),
                ("MCSE", traces.mcse_mean(), case.mcse_mean),
            ];
            for (what, got, want) in pairs.into_iter().chain(rhat) {
                let passes = (got - want).abs() <= 1e-8 * want.abs();
                if !passes {
                    wrong.push(format!("{}, {what}: {got} instead of {want}", case.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn quantiles_are_those_of_the_normal_law() {
        for (p, z) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.025, -1.959_963_984_540_054),
            (1e-9, -5.997_807_015_007_687),
        ] {
            assert!(
                (normal_quantile(p) - z).abs() < 1e-14 * (1.0 + z.abs()),
                "{p}"
            );
        }
    }

    #[test]
    fn an_autoregressive_chain_has_the_autocorrelation_time_of_its_coefficient() {
        // tau = (1 + phi) / (1 - phi) = 9 for phi = 0.8.
        let chain = |c: u32| {
            let mut noise = vec![0.0f32; 20_000];
            crate::philox::fill_normal(&mut noise, 5, c, 0, 0);
            let mut x = 0.0;
            let draw = |n: f32| {
                x = 0.8 * x + 0.6 * f64::from(n);
                x
            };
            noise.into_iter().map(draw).collect::<Vec<f64>>()
        };
        let traces = Traces::new(&[chain(0), chain(1)]).unwrap();
        assert!((traces.autocorrelation_time() - 9.0).abs() < 1.0);
        let rho = traces.autocorrelation(3);
        for (lag, rho) in rho.iter().enumerate() {
            assert!((rho - 0.8f64.powi(lag as i32)).abs() < 0.03, "lag {lag}");
        }
        assert!(traces.rhat() < 1.01);
    }

    #[test]
    fn a_constant_trace_counts_every_draw() {
        let traces = Traces::new(&[vec![2.0; 10], vec![2.0; 10]]).unwrap();
        assert_eq!((traces.ess_bulk(), traces.rhat()), (20.0, 1.0));
    }

    #[test]
    fn what_cannot_be_diagnosed_is_refused() {
        let refused = |chains: &[Vec<f64>]| Traces::new(chains).unwrap_err().to_string();
        assert!(refused(&[]).contains("no chain"));
        assert!(refused(&[vec![0.0; 7]]).contains("7 draws"));
        assert!(refused(&[vec![0.0; 9], vec![0.0; 8]]).contains("chain 1 has 8"));
        let mut holed = vec![0.0; 9];
        holed[4] = f64::NAN;
        assert!(refused(&[holed]).contains("draw 4 of chain 0"));
    }
}
