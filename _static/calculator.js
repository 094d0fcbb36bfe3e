// The page chapters/calculator: the bytes of embeddings, counted as in
// memembed/sizing.py. tests/book/test_calculator.py compares the two. Bytes are BigInts,
// because numbers above 2 ** 53 would be rounded.

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("calculator");
  const show = (id, text) => (document.getElementById(id).textContent = text);

  // --- Counting -------------------------------------------------------------------

  const BITS = { float32: 32n, float16: 16n, bfloat16: 16n, int8: 8n, int4: 4n };
  const INT4_GROUP = 128n;
  const OPTIMIZER_SLOTS = {
    sgd: 0n,
    rowwise_adagrad: 0n,
    adagrad: 1n,
    adam: 2n,
    adafactor: 1n,
  };

  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0n);
  const ceilDivide = (a, b) => (a + b - 1n) / b;

  // Exact, because there are far fewer than 2 ** 53 ids.
  const minBuckets = (ids) => BigInt(Math.ceil(Math.sqrt(Number(ids))));

  const rowBytes = (width, dtype) => ceilDivide(width * BITS[dtype], 8n);

  function scaleBytes(vectors, length, dtype) {
    if (dtype === "int8") return 4n * vectors;
    if (dtype === "int4") {
      return 5n * ceilDivide(length, INT4_GROUP) * vectors + 4n * length;
    }
    return 0n;
  }

  const tableBytes = ([rows, width], dtype) =>
    rows * rowBytes(width, dtype) + scaleBytes(rows, width, dtype);

  const projectionBytes = ([width, columns], dtype) =>
    width * rowBytes(columns, dtype) + scaleBytes(columns, width, dtype);

  function trainingBytes(shapes, optimizer) {
    const sizes = shapes.map(([rows, width]) => rows * width);
    let slots = OPTIMIZER_SLOTS[optimizer] * sum(sizes);
    if (optimizer === "rowwise_adagrad") slots += sum(shapes.map(([rows]) => rows));
    if (optimizer === "adafactor") slots += sum(shapes.flat());
    return { weights: 4n * sum(sizes), gradients: 4n * sum(sizes), slots: 4n * slots };
  }

  // --- The methods: what they store and train, and their layers in Python -----------

  function layerOfTables(tables, projections, setting, python) {
    const { dtype } = setting;
    const stored =
      sum(tables.map((shape) => tableBytes(shape, dtype))) +
      sum(projections.map((shape) => projectionBytes(shape, dtype)));
    return { stored, trained: [...tables, ...projections], python };
  }

  const withDtype = ({ dtype }) => (dtype.includes("float16") ? `, dtype="${dtype}"` : "");

  const METHODS = {
    plain(ids, setting) {
      const shape = [ids, setting.columns];
      const python = `keras.layers.Embedding(${shape.join(", ")}${withDtype(setting)})`;
      return layerOfTables([shape], [], setting, python);
    },

    hashing(ids, setting) {
      const shape = [ceilDivide(ids, setting.share), setting.columns];
      const sizes = [ids, setting.columns, shape[0]];
      const python = `HashEmbedding(${sizes.join(", ")}${withDtype(setting)})`;
      return layerOfTables([shape], [], setting, python);
    },

    qr(ids, setting) {
      const { columns, combiner } = setting;
      const buckets = setting.buckets ?? minBuckets(ids);
      const width = combiner === "concatenate" ? columns / 2n : columns;
      const tables = [buckets, ceilDivide(ids, buckets)].map((rows) => [rows, width]);
      const python =
        `QREmbedding(${ids}, ${columns}` +
        (setting.buckets ? `, num_buckets=${buckets}` : "") +
        (combiner === "multiply" ? "" : `, combiner="${combiner}"`) +
        `${withDtype(setting)})`;
      return layerOfTables(tables, [], setting, python);
    },

    md(ids, setting) {
      const { columns, blocks } = setting;
      let share = 0n;
      const ends = blocks.map((block) => (ids * (share += block.share)) / WHOLE);
      const sizes = ends.map((end, i) => end - (ends[i - 1] ?? 0n));
      const empty = sizes.indexOf(0n);
      if (empty >= 0) {
        const message = `Block ${empty + 1} of a table of ${ids} ids would be empty.`;
        throw new Problem("blocks", message);
      }
      const widths = blocks.map((block) => block.width);
      const tables = sizes.map((size, i) => [size, widths[i]]);
      const narrow = widths.filter((width) => width < columns);
      const projections = narrow.map((width) => [width, columns]);
      const lists = [sizes, widths].map((list) => `[${list.join(", ")}]`);
      const python = `MDEmbedding(${lists.join(", ")}, ${columns}${withDtype(setting)})`;
      return layerOfTables(tables, projections, setting, python);
    },

    bits(ids, { columns, bits }) {
      const codes = ceilDivide(ids * columns * bits, 8n);
      if (codes > MOST.int32 && ids <= MOST.int32) {
        const message = "The codes of a table must take at most 2,147,483,648 bytes.";
        throw new Problem("bits", `${message} Received: ${inBytes(codes)}`);
      }
      return {
        stored: codes + 2n * 4n * columns,
        // Rows of floats, and the offset and the scale of each column.
        trained: [[ids, columns], [1n, columns], [1n, columns]],
        python: `LowBitEmbedding(${ids}, ${columns}, bits=${bits})`,
      };
    },
  };

  function count(method, setting) {
    const layers = setting.tables.map((ids) => METHODS[method](ids, setting));
    const shapes = layers.flatMap((layer) => layer.trained);
    const stored = sum(layers.map((layer) => layer.stored));
    const parts = trainingBytes(shapes, setting.optimizer);
    return {
      stored,
      parts,
      training: sum(Object.values(parts)),
      reading: Number(stored) / (setting.bandwidth * 1e9),
      python: layers.map((layer) => layer.python),
    };
  }

  // --- Reading the fields ------------------------------------------------------------

  const MOST = {
    ids: 10n ** 12n,
    columns: 65536n,
    tables: 100,
    blocks: 12,
    int32: 2n ** 31n, // bytes or ids that an int32 can count
  };
  const WHOLE = 100_000n; // thousandths of a percent

  class Problem extends Error {
    constructor(field, message) {
      super(message);
      this.field = field;
    }
  }

  /** A number as people write it: 1000000, 1,000,000, 1_000_000 or 1e6. */
  function whole(field, text, what, most) {
    const received = `Received: ${text.trim() || "nothing"}`;
    const plain = /^\d{1,3}([,_]\d{3})+$/.test(text) ? text.replace(/\D/g, "") : text;
    const [, digits, zeros = "0"] = /^(\d+)(?:e(\d{1,2}))?$/i.exec(plain) ?? [, "0"];
    const number = BigInt(digits) * 10n ** BigInt(zeros);
    if (number < 1n) {
      throw new Problem(field, `${what} must be a positive whole number. ${received}`);
    }
    if (number > most) {
      const limit = most.toLocaleString("en");
      throw new Problem(field, `${what} must be at most ${limit}. ${received}`);
    }
    return number;
  }

  const words = (text) => text.trim().split(/[\s;]+|,\s+/).filter(Boolean);

  const READ = {
    tables(text) {
      const sizes = words(text);
      if (sizes.length < 1 || sizes.length > MOST.tables) {
        const message = `There must be 1 to ${MOST.tables} tables.`;
        throw new Problem("tables", `${message} Received: ${sizes.length || "nothing"}`);
      }
      return sizes.map((each) => whole("tables", each, "A vocabulary size", MOST.ids));
    },
    columns: (text) => whole("columns", text.trim(), "Columns", MOST.columns),
    share: (text) => whole("share", text.trim(), "Ids that share a row", MOST.ids),
    buckets(text) {
      if (!text.trim()) return undefined;
      return whole("buckets", text.trim(), "Buckets", MOST.ids);
    },
    blocks(text, { columns }) {
      const blocks = words(text).map((each) => {
        const [, percent, places = "", width] =
          /^(\d{1,3})(?:\.(\d{1,3}))?%?:(\S+)$/.exec(each) ?? [];
        if (!width) {
          const message = "Each block must be a percentage and columns, such as 10:64.";
          throw new Problem("blocks", `${message} Received: ${each}`);
        }
        return {
          share: BigInt(percent + places.padEnd(3, "0")),
          width: whole("blocks", width, "Columns of a block", MOST.columns),
        };
      });
      if (blocks.length > MOST.blocks) {
        const message = `There must be at most ${MOST.blocks} blocks.`;
        throw new Problem("blocks", `${message} Received: ${blocks.length}`);
      }
      const percent = Number(sum(blocks.map((block) => block.share))) / 1000;
      if (percent !== 100) {
        const message = "The percentages must sum to 100.";
        throw new Problem("blocks", `${message} Received: ${percent}`);
      }
      const wide = blocks.find((block) => block.width > columns);
      if (wide) {
        const message = `No block may be wider than the ${columns} columns above.`;
        throw new Problem("blocks", `${message} Received: ${wide.width}`);
      }
      return blocks;
    },
    bandwidth(text) {
      const number = /^\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : 0;
      if (!(number > 0 && number <= 1e6)) {
        const message = "The bandwidth must be a positive number, at most 1,000,000.";
        throw new Problem("bandwidth", `${message} Received: ${text.trim() || "nothing"}`);
      }
      return number;
    },
    combiner(text, { columns }) {
      if (text === "concatenate" && columns % 2n) {
        const message = "Concatenation needs an even number of columns.";
        throw new Problem("combiner", `${message} Received: ${columns}`);
      }
      return text;
    },
    bits: (text) => BigInt(text),
  };

  const fields = [...form.elements].filter((field) => field.name);
  const isUsed = (field) => !field.closest("[hidden]");

  /** The values of the fields that the method uses, and the problems with them. */
  function readFields() {
    const setting = {};
    const problems = [];
    for (const { name, value } of fields.filter(isUsed)) {
      try {
        setting[name] = READ[name] ? READ[name](value, setting) : value;
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        problems.push(problem);
      }
    }
    return { setting, problems };
  }

  // --- Showing the result --------------------------------------------------------------

  function scaled(number, units) {
    let i = 0;
    while (number >= 999.5 && i < units.length - 1) {
      number /= 1000;
      i += 1;
    }
    const digits = number < 1000 ? { maximumSignificantDigits: 3 } : {};
    return `${number.toLocaleString("en", digits)} ${units[i]}`;
  }

  const inBytes = (bytes) =>
    scaled(Number(bytes), ["bytes", "kB", "MB", "GB", "TB", "PB"]);
  const inSeconds = (seconds) => scaled(seconds * 1e9, ["ns", "µs", "ms", "s"]);

  function showBytes(id, bytes) {
    const place = document.getElementById(id);
    place.value = bytes;
    place.textContent = inBytes(bytes);
    if (bytes >= 1000n) {
      const exact = document.createElement("small");
      const [first, ...others] = bytes.toLocaleString("en").split(",");
      exact.append(` ${first}`);
      for (const digits of others) {
        exact.append(",", document.createElement("wbr"), digits); // a line may break there
      }
      exact.append(" bytes");
      place.append(exact);
    }
  }

  function showSeconds(id, seconds) {
    document.getElementById(id).value = seconds;
    show(id, inSeconds(seconds));
  }

  function summary(full, yours) {
    const ratio = Number(full.stored) / Number(yours.stored);
    const times = (number) => number.toLocaleString("en", { maximumSignificantDigits: 3 });
    let beside = "as much as full tables in float32";
    if (ratio > 1) beside = `${times(ratio)} times fewer bytes than full tables in float32`;
    if (ratio < 1) beside = `${times(1 / ratio)} times as much as full tables in float32`;
    return `Your tables take ${inBytes(yours.stored)}, ${beside}.`;
  }

  function draw(full, yours) {
    const bars = [
      ["Stored, full tables", { weights: full.stored }],
      ["Stored, yours", { weights: yours.stored }],
      ["While training, full tables", full.parts],
      ["While training, yours", yours.parts],
    ];
    const chart = document.getElementById("chart");
    const most = Math.max(...bars.map(([, parts]) => Number(sum(Object.values(parts)))));
    const create = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const key in attributes) element.setAttribute(key, attributes[key]);
      return element;
    };
    const labels = bars.map(
      ([label, parts]) => `${label}: ${inBytes(sum(Object.values(parts)))}`,
    );
    chart.setAttribute("aria-label", `A bar chart. ${labels.join(". ")}.`);
    chart.setAttribute("height", 48 * bars.length);
    chart.replaceChildren();
    bars.forEach(([, parts], i) => {
      const text = create("text", { x: 0, y: 48 * i + 16 });
      text.textContent = labels[i];
      chart.append(text);
      let left = 0;
      for (const [part, bytes] of Object.entries(parts)) {
        const width = (100 * Number(bytes)) / most;
        const place = { x: `${left}%`, y: 48 * i + 22, width: `${width}%`, height: 16 };
        chart.append(create("rect", { ...place, class: part }));
        left += width;
      }
    });
  }

  function python(method, { dtype }, calls) {
    const names = [calls[0].split("(")[0], ...(method === "bits" ? ["pack"] : [])];
    const from = `from memembed import ${names.join(", ")}`;
    const lines = [method === "plain" ? "import keras" : from, "", ...calls];
    const trained = ["", "# once the model is trained:"];
    if (method === "bits") lines.push(...trained, "model = pack(model)");
    else if (dtype.startsWith("int")) lines.push(...trained, `model.quantize("${dtype}")`);
    return lines.join("\n");
  }

  function update() {
    const method = form.elements.method.value;
    for (const part of form.querySelectorAll("[data-methods]")) {
      part.hidden = !part.dataset.methods.split(" ").includes(method);
    }
    const { setting, problems } = readFields();
    let full, yours;
    if (!problems.length) {
      try {
        full = count("plain", { ...setting, dtype: "float32" });
        yours = count(method, setting);
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        problems.push(problem);
      }
    }
    for (const { name } of fields) {
      const problem = problems.find((each) => each.field === name);
      show(`${name}-problem`, problem ? problem.message : "");
      form.elements[name].setAttribute("aria-invalid", Boolean(problem));
    }
    document.getElementById("result").hidden = problems.length > 0;
    if (problems.length) {
      show("summary", `Nothing is counted yet. ${problems[0].message}`);
      return;
    }
    show("summary", summary(full, yours));
    for (const [id, counted] of Object.entries({ full, yours })) {
      showBytes(`${id}-stored`, counted.stored);
      showBytes(`${id}-training`, counted.training);
      showSeconds(`${id}-reading`, counted.reading);
    }
    draw(full, yours);
    show("python", python(method, setting, yours.python));
  }

  // --- The setting in the page's address ------------------------------------------------

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const field of fields) {
      if (!given.has(field.name)) continue;
      const before = field.value;
      field.value = given.get(field.name);
      // Ignore a value that the list of options does not have.
      if (field.matches("select") && field.selectedIndex < 0) field.value = before;
    }
    update();
  }

  function toAddress() {
    const used = fields.filter(isUsed).map((field) => [field.name, field.value]);
    history.replaceState(null, "", `#${new URLSearchParams(used)}`);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    update();
    toAddress();
  });
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
});
