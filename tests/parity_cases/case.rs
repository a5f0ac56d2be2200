//! A case in the format of `shared/parity`: random weights and inputs, and every quantity of the format expected to be 0.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use vaebm::checkpoint::{NamedTensor, write_tensors};
use vaebm::config::{Config, Decoder, EnergyNet, Target, TrainEbm, Vae};
use vaebm::device::Device;
use vaebm::device::host::Cpu;
use vaebm::langevin::programs::Chains;
use vaebm::nn::params::{ParamSpec, Role, initialise};
use vaebm::nvae::Nvae;
use vaebm::philox;
use vaebm::train::vae_programs::{NoiseSource, eval_pass};

/// Images, and chains, of every test.
const N: usize = 2;
/// Passes, steps and iterations of every test.
const TIMES: usize = 2;

/// A folder with one case.
pub struct Case {
    root: TempDir,
    tests: usize,
    config: Config,
    model: Nvae,
    vae: Vec<ParamSpec>,
    ebm: Vec<ParamSpec>,
}

/// One test while it is put together.
#[derive(Default)]
struct Test {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    inputs: Vec<String>,
    settings: HashMap<String, String>,
}

/// Numbers of an input.
enum Numbers {
    /// Standard normal.
    Noise,
    /// In (0, 1).
    Uniform,
    /// 0 or 1.
    Binary,
    /// This one.
    Constant(f32),
}

impl Test {
    fn input(&mut self, name: impl Into<String>, shape: &[usize], numbers: Numbers) {
        let name = name.into();
        let mut data = vec![0.0; shape.iter().product()];
        let stream = self.tensors.len() as u32;
        match numbers {
            Numbers::Noise => philox::fill_normal(&mut data, 3, stream, 0, 0),
            Numbers::Uniform | Numbers::Binary => {
                philox::fill_uniform(&mut data, 3, stream, 0, 0);
            }
            Numbers::Constant(value) => data.fill(value),
        }
        if matches!(numbers, Numbers::Binary) {
            data.iter_mut().for_each(|v| *v = v.round());
        }
        self.inputs.push(name.clone());
        self.tensors.insert(name, (shape.to_vec(), data));
    }

    fn expect(&mut self, name: impl Into<String>, shape: &[usize]) {
        let zeros = vec![0.0; shape.iter().product()];
        self.tensors.insert(name.into(), (shape.to_vec(), zeros));
    }

    fn expect_all(&mut self, prefix: &str, names: &[&str], shape: &[usize]) {
        for name in names {
            self.expect(format!("{prefix}{name}"), shape);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.into(), value.into());
    }

    /// Writes the tensors and, for all that is no input, a tolerance that lets any number pass.
    fn write(mut self, folder: &Path, name: &str) {
        self.settings.insert("inputs".into(), self.inputs.join(","));
        let expected = self.tensors.keys().filter(|k| !self.inputs.contains(k));
        let tolerances: BTreeMap<_, _> = expected
            .map(|k| (k, json!({"abs": 1e30, "max": 1.0})))
            .collect();
        let text = serde_json::to_string(&tolerances).expect("JSON");
        std::fs::write(folder.join(format!("{name}.tol.json")), text).expect("a folder");
        let tensors: Vec<NamedTensor<'_>> = (self.tensors.iter())
            .map(|(name, (shape, data))| NamedTensor { name, shape, data })
            .collect();
        let path = folder.join(format!("{name}.safetensors"));
        write_tensors(&path, &tensors, self.settings.clone()).expect("a folder");
    }
}

/// Random numbers of the parameters: their own start, and statistics, gammas and betas that are not those of a fresh network.
fn weights(params: &[ParamSpec]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut device = Cpu::new();
    initialise(&mut device, "net", params, 5).expect("states");
    let mut weights = BTreeMap::new();
    for (i, spec) in params.iter().enumerate() {
        let mut data = device
            .read_state(&format!("net.{}", spec.name))
            .expect("a state");
        let mut uniform = vec![0.0; data.len()];
        philox::fill_uniform(&mut uniform, 6, i as u32, 0, 0);
        match spec.role {
            Role::Statistic => data.iter_mut().zip(uniform).for_each(|(d, u)| *d = u + 0.5),
            Role::Vector => (data.iter_mut().zip(uniform)).for_each(|(d, u)| *d += 0.4 * u - 0.2),
            _ => {}
        }
        weights.insert(
            spec.name.clone(),
            (spec.official_shape(), spec.to_official(&data)),
        );
        if let Some(layer) = spec.name.strip_suffix(".running_mean") {
            weights.insert(format!("{layer}.num_batches_tracked"), (vec![], vec![7.0]));
        }
    }
    weights
}

fn write_weights(params: &[ParamSpec], path: &Path) {
    let weights = weights(params);
    let tensors: Vec<NamedTensor<'_>> = (weights.iter())
        .map(|(name, (shape, data))| NamedTensor { name, shape, data })
        .collect();
    write_tensors(path, &tensors, HashMap::new()).expect("a folder");
}

/// The convolutions among parameters, with their output channels.
fn convolutions(params: &[ParamSpec]) -> Vec<(String, usize)> {
    let convolution = |p: &&ParamSpec| matches!(p.role, Role::Conv | Role::Depthwise);
    let named = params.iter().filter(convolution).map(|p| {
        let layer = p.name.strip_suffix(".weight").expect("a weight");
        (layer.to_owned(), p.official_shape()[0])
    });
    named.collect()
}

impl Case {
    /// A case of a small model, changed.
    pub fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.data.size = 16;
        config.vae = Vae {
            num_latent_scales: 2,
            num_groups_per_scale: 2,
            num_latent_per_group: 3,
            num_channels_enc: 8,
            num_channels_dec: 8,
            num_cell_per_cond_enc: 1,
            num_cell_per_cond_dec: 1,
            ..Vae::default()
        };
        config.ebm.network = EnergyNet::Cifar32;
        config.ebm.n_channel = 4;
        change(&mut config);
        config.validate().expect("a configuration");
        let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
        let bits = config.data.num_x_bits;
        let vae = eval_pass(&model, bits, 1, NoiseSource::Feeds).params;
        let ebm = match config.vae.decoder {
            Decoder::Normal => chains(&config, &model).params().1,
            _ => Vec::new(),
        };
        let mut case = Case {
            root: tempfile::tempdir().expect("a folder"),
            tests: 0,
            config,
            model,
            vae,
            ebm,
        };
        case.write();
        case
    }

    /// The folder of cases.
    pub fn folder(&self) -> &Path {
        self.root.path()
    }

    /// How many tests the case has.
    pub fn tests(&self) -> usize {
        self.tests
    }

    fn write(&mut self) {
        std::fs::write(self.folder().join("ceilings.json"), r#"[["*", "*", null]]"#)
            .expect("a folder");
        let folder = self.folder().join("C");
        std::fs::create_dir(&folder).expect("a folder");
        write_weights(&self.vae, &folder.join("vae.safetensors"));
        self.write_settings(&folder);
        let mut tests = vec![
            ("stage1_eval", self.eval()),
            ("stage1_trace", self.trace()),
            ("stage1_train", self.train()),
            ("stage1_prior", self.prior()),
            ("stage1_bn_readjust", self.readjust()),
            ("vae_sample", self.vae_sample()),
        ];
        if self.config.vae.num_nf > 0 {
            tests.push(("nf_cells", self.flows()));
        }
        if self.config.vae.decoder == Decoder::Normal {
            write_weights(&self.ebm, &folder.join("ebm.safetensors"));
            tests.push(("ebm_data_init", self.data_init()));
            tests.push(("ebm_forward", self.ebm_forward()));
            tests.push(("langevin_1e-4", self.langevin()));
            tests.push(("ebm_train_mu", self.ebm_train(true)));
            tests.push(("ebm_train_sample", self.ebm_train(false)));
        }
        self.tests = tests.len();
        for (name, test) in tests {
            test.write(&folder, name);
        }
    }

    fn write_settings(&self, folder: &Path) {
        let (vae, data) = (&self.config.vae, &self.config.data);
        let mut args = serde_json::to_value(vae).expect("JSON");
        let dataset = match vae.decoder {
            Decoder::Bernoulli => "mnist",
            _ => "celeba_64",
        };
        args["dataset"] = dataset.into();
        args["num_x_bits"] = data.num_x_bits.into();
        args.as_object_mut().expect("settings").remove("decoder");
        if vae.decoder == Decoder::Bernoulli {
            // The official programs leave it at its default for binary images.
            args["num_mixture_dec"] = 10.into();
        }
        let norms = self
            .vae
            .iter()
            .filter_map(|p| p.name.strip_suffix(".running_mean"));
        let trained = self.vae.iter().filter(|p| p.role.is_trainable());
        let layers = json!({
            "conv_layers": convolutions(&self.vae).into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "bn_layers": norms.collect::<Vec<_>>(),
            "groups_per_scale": self.model.groups_per_scale(),
            "n_params": trained.map(|p| p.shape.len()).sum::<usize>(),
        });
        for (name, value) in [("args.json", args), ("layers.json", layers)] {
            std::fs::write(folder.join(name), value.to_string()).expect("a folder");
        }
    }

    fn image(&self) -> [usize; 4] {
        let side = self.config.data.size;
        [N, self.config.data.channels, side, side]
    }

    fn logits(&self) -> [usize; 4] {
        let [n, _, h, w] = self.image();
        [n, self.model.logit_channels(), h, w]
    }

    /// The shapes of the latents, top-down.
    fn latents(&self) -> Vec<[usize; 4]> {
        let groups = self.model.groups();
        let shape = |g: &vaebm::nvae::Group| [N, g.latents, g.side, g.side];
        groups.iter().map(shape).collect()
    }

    fn images(&self, test: &mut Test, name: &str) {
        let numbers = match self.config.vae.decoder {
            Decoder::Bernoulli => Numbers::Binary,
            _ => Numbers::Uniform,
        };
        test.input(name, &self.image(), numbers);
    }

    fn noise(&self, test: &mut Test, prefix: &str) {
        for (g, shape) in self.latents().iter().enumerate() {
            test.input(format!("{prefix}{g}"), shape, Numbers::Noise);
        }
    }

    fn eval(&self) -> Test {
        let mut test = Test::default();
        test.set("K", &TIMES.to_string());
        self.images(&mut test, "x");
        for k in 0..TIMES {
            self.noise(&mut test, &format!("eps.{k}."));
            test.expect(format!("k{k}.logits"), &self.logits());
            let each = ["log_q", "log_p", "recon_loss", "kl", "log_iw"];
            test.expect_all(&format!("k{k}."), &each, &[N]);
            for g in 0..self.latents().len() {
                test.expect(format!("k{k}.kl_all.{g}"), &[N]);
            }
        }
        test.expect_all("", &["nelbo", "log_p", "bpd_elbo", "bpd_logp"], &[]);
        test
    }

    /// The blocks that every model has, and those of its kind.
    fn trace(&self) -> Test {
        let mut test = Test::default();
        self.images(&mut test, "x");
        self.noise(&mut test, "eps.");
        let (c, side) = (self.config.vae.num_channels_enc, self.config.data.size);
        let logits = self.logits();
        test.expect("in0.stem", &self.image());
        test.expect("out.stem", &[N, c, side, side]);
        test.expect("out.pre_process.0._ops.0", &[N, c, side, side]);
        test.expect("out.pre_process.0", &[N, c, side, side]);
        test.expect("out.image_conditional", &logits);
        let top = self.model.groups()[0];
        let wide = [N, top.width, top.side, top.side];
        test.expect("out.enc0", &wide);
        let [_, l, h, w] = self.latents()[0];
        test.expect("out.enc_sampler.0", &[N, 2 * l, h, w]);
        match self.model.is_vanilla() {
            true => test.expect("out.stem_decoder", &wide),
            false => {
                test.expect("out.dec_tower.0", &wide);
                test.expect("in1.dec_tower.0", &[N, l, h, w]);
                let [_, l, h, w] = self.latents()[1];
                test.expect("out.dec_sampler.0", &[N, 2 * l, h, w]);
            }
        }
        if self.config.vae.num_nf > 0 {
            test.expect("out.nf_cells.0", &[N, l, h, w]);
            test.expect("out.nf_cells.0.cell1", &[N, l, h, w]);
        }
        test
    }

    /// The state dict after a number of steps.
    fn state_dict(&self, test: &mut Test, prefix: &str) {
        for (name, (shape, _)) in weights(&self.vae) {
            test.expect(format!("{prefix}{name}"), &shape);
        }
    }

    fn train(&self) -> Test {
        let mut test = Test::default();
        for (name, value) in [("lr", "0.01"), ("weight_decay", "0.0003"), ("eps", "0.001")] {
            test.set(name, value);
        }
        let groups = self.latents();
        test.expect("alpha_i", &[groups.len()]);
        for (layer, channels) in convolutions(&self.vae) {
            test.input(format!("sr_u0.{layer}"), &[channels], Numbers::Noise);
        }
        for it in 0..TIMES {
            self.images(&mut test, &format!("x.{it}"));
            self.noise(&mut test, &format!("eps.{it}."));
            let kl = if it == 0 { 0.3 } else { 1.0 };
            test.input(format!("it{it}.kl_coeff"), &[1], Numbers::Constant(kl));
            test.input(format!("it{it}.wdn_coeff"), &[1], Numbers::Constant(0.1));
            let prefix = format!("it{it}.");
            test.expect(format!("it{it}.logits"), &self.logits());
            test.expect_all(
                &prefix,
                &["log_q", "log_p", "recon_loss", "balanced_kl"],
                &[N],
            );
            test.expect_all(&prefix, &["kl_vals", "kl_coeffs"], &[groups.len()]);
            test.expect_all(
                &prefix,
                &["loss_nelbo", "norm_loss", "bn_loss", "loss"],
                &[],
            );
            for (g, [_, l, _, _]) in groups.iter().enumerate() {
                test.expect(format!("it{it}.kl_all.{g}"), &[N]);
                test.expect(format!("it{it}.kl_diag.{g}"), &[*l]);
            }
            for (layer, channels) in convolutions(&self.vae) {
                test.expect(format!("it{it}.sr_u.{layer}"), &[channels]);
            }
        }
        for spec in self.vae.iter().filter(|p| p.role.is_trainable()) {
            test.expect(format!("it0.grad.{}", spec.name), &spec.official_shape());
        }
        self.state_dict(&mut test, "after1.");
        self.state_dict(&mut test, "after2.");
        test
    }

    fn prior(&self) -> Test {
        let mut test = Test::default();
        let image = self.image();
        for (t, temperature) in [1.0, 0.7].into_iter().enumerate() {
            self.noise(&mut test, &format!("eps.{t}."));
            test.input(format!("t{t}.temp"), &[1], Numbers::Constant(temperature));
            test.expect(format!("t{t}.logits"), &self.logits());
            test.expect(format!("t{t}.x_sample"), &image);
            match self.config.vae.decoder {
                Decoder::Normal => test.input(format!("t{t}.eps_x"), &image, Numbers::Noise),
                Decoder::Bernoulli => {}
                Decoder::Dmol => {
                    let components = self.config.vae.num_mixture_dec;
                    let shape = [image[0], components, image[2], image[3]];
                    test.input(format!("t{t}.u_gumbel"), &shape, Numbers::Uniform);
                    test.input(format!("t{t}.u"), &image, Numbers::Uniform);
                    test.expect(format!("t{t}.x_mean"), &image);
                }
            }
        }
        test
    }

    fn readjust(&self) -> Test {
        let mut test = Test::default();
        for it in 0..TIMES {
            self.noise(&mut test, &format!("eps.{it}."));
            test.expect(format!("logits.{it}"), &self.logits());
        }
        for (name, (shape, _)) in weights(&self.vae) {
            if name.contains(".running_") || name.contains(".num_batches") {
                test.expect(format!("after.{name}"), &shape);
            }
        }
        test
    }

    fn vae_sample(&self) -> Test {
        let mut test = Test::default();
        self.noise(&mut test, "eps.");
        let image = self.image();
        test.input("eps_x", &image, Numbers::Noise);
        for (t, temperature) in [1.0, 0.7].into_iter().enumerate() {
            test.input(format!("t{t}.temp"), &[1], Numbers::Constant(temperature));
            test.expect(format!("t{t}.logits"), &self.logits());
            test.expect(format!("t{t}.log_p_total"), &[N]);
            for (g, shape) in self.latents().iter().enumerate() {
                test.expect(format!("t{t}.z.{g}"), shape);
            }
            match self.config.vae.decoder {
                Decoder::Normal => test.expect_all(
                    &format!("t{t}."),
                    &["mu", "sigma", "sigma1", "x", "log_prob"],
                    &image,
                ),
                Decoder::Bernoulli => {}
                Decoder::Dmol => {
                    self.images(&mut test, &format!("t{t}.x"));
                    test.expect(format!("t{t}.log_prob"), &[image[0], image[2], image[3]]);
                }
            }
        }
        test
    }

    fn flows(&self) -> Test {
        let mut test = Test::default();
        let per_group = self.config.vae.num_nf;
        for (j, shape) in self.latents().iter().enumerate() {
            for j in j * per_group..(j + 1) * per_group {
                test.input(format!("in.{j}"), shape, Numbers::Noise);
                test.input(format!("cot.{j}"), shape, Numbers::Noise);
                for name in ["mid", "out", "grad_in"] {
                    test.expect(format!("{name}.{j}"), shape);
                }
            }
        }
        for spec in &self.vae {
            let Some(rest) = spec.name.strip_prefix("nf_cells.") else {
                continue;
            };
            let rest = rest
                .replace(".mu.conv_0", ".mu")
                .replace(".conv.convz.", ".convz.");
            if let Some(layer) = rest.strip_suffix(".weight") {
                for kind in ["mask", "wn", "grad_w"] {
                    test.expect(format!("{kind}.{layer}"), &spec.official_shape());
                }
            } else if let Some(layer) = rest.strip_suffix(".log_weight_norm") {
                test.expect(format!("grad_lwn.{layer}"), &spec.official_shape());
            }
        }
        test
    }

    fn data_init(&self) -> Test {
        let mut test = Test::default();
        for (name, (shape, data)) in weights(&self.ebm) {
            let name = format!("before.{name}");
            test.inputs.push(name.clone());
            test.tensors.insert(name, (shape, data));
        }
        self.images(&mut test, "images");
        test.expect("energy", &[N]);
        for spec in &self.ebm {
            test.expect(format!("after.{}", spec.name), &spec.official_shape());
        }
        test
    }

    fn power_vectors(&self, test: &mut Test) {
        for (layer, channels) in convolutions(&self.ebm) {
            test.input(format!("sr_u0.{layer}"), &[channels], Numbers::Noise);
        }
    }

    fn ebm_forward(&self) -> Test {
        let mut test = Test::default();
        self.images(&mut test, "x");
        self.power_vectors(&mut test);
        test.expect("energy", &[N]);
        test.expect("grad_x", &self.image());
        for spec in &self.ebm {
            test.expect(format!("grad.{}", spec.name), &spec.official_shape());
        }
        for (layer, channels) in convolutions(&self.ebm) {
            for kind in ["sr_u40", "sr_u44"] {
                test.expect(format!("{kind}.{layer}"), &[channels]);
            }
            for kind in ["weight", "log_weight_norm"] {
                let name = format!("{layer}.{kind}");
                let spec = self.ebm.iter().find(|s| s.name == name).expect("a layer");
                test.expect(format!("sr_grad.{name}"), &spec.official_shape());
            }
        }
        test.expect_all("sr_loss.", &["40", "44"], &[]);
        test
    }

    /// A chain's inputs and quantities.
    fn chain(&self, test: &mut Test, prefix: &str) {
        test.set("step_size", "0.0001");
        test.set("num_steps", &TIMES.to_string());
        test.set("batch_size", &N.to_string());
        let image = self.image();
        self.noise(test, &format!("{prefix}init.eps_z."));
        test.input(format!("{prefix}init.eps_x"), &image, Numbers::Noise);
        for k in 0..TIMES {
            self.noise(test, &format!("{prefix}noise_z.{k}."));
            test.input(format!("{prefix}noise_x.{k}"), &image, Numbers::Noise);
            let step = format!("{prefix}step{k}.");
            let each = ["energy", "log_p_total", "log_pxgz", "dvalue"];
            test.expect_all(&step, &each, &[N]);
            test.expect_all(&step, &["neg_x", "grad_of_mean.eps_x", "eps_x"], &image);
            test.expect(format!("{step}logits"), &self.logits());
            for (g, shape) in self.latents().iter().enumerate() {
                test.expect(format!("{step}grad_of_mean.eps_z.{g}"), shape);
                test.expect(format!("{step}eps_z.{g}"), shape);
            }
        }
    }

    fn langevin(&self) -> Test {
        let mut test = Test::default();
        self.chain(&mut test, "");
        test.expect("final_mu", &self.image());
        test
    }

    fn ebm_train(&self, use_mu_cd: bool) -> Test {
        let mut test = Test::default();
        let config = TrainEbm::default();
        test.set("lr", &config.lr.to_string());
        test.set("wd", &config.wd.to_string());
        test.set("alpha_s", &config.alpha_s.to_string());
        test.set("use_mu_cd", if use_mu_cd { "True" } else { "False" });
        self.power_vectors(&mut test);
        for it in 0..TIMES {
            let prefix = format!("it{it}.");
            self.images(&mut test, &format!("{prefix}image"));
            self.chain(&mut test, &prefix);
            test.expect(format!("{prefix}final_neg_x"), &self.image());
            test.expect_all(&prefix, &["pos_out", "neg_out"], &[N]);
            test.expect_all(&prefix, &["norm_loss", "loss", "loss_total"], &[]);
            for spec in &self.ebm {
                for kind in ["grad", "clipped", "after"] {
                    test.expect(
                        format!("{prefix}{kind}.{}", spec.name),
                        &spec.official_shape(),
                    );
                }
            }
            for (layer, channels) in convolutions(&self.ebm) {
                test.expect(format!("{prefix}sr_u.{layer}"), &[channels]);
            }
        }
        for spec in &self.ebm {
            for kind in ["exp_avg", "exp_avg_sq"] {
                test.expect(format!("adam.{kind}.{}", spec.name), &spec.official_shape());
            }
        }
        test
    }
}

fn chains(config: &Config, model: &Nvae) -> Chains {
    Chains {
        model: model.clone(),
        ebm: config.ebm.clone(),
        n: 1,
        target: Target::Official,
        temperature: 1.0,
    }
}
