"use strict";
// Every text goes into the page as text: nothing here makes HTML of a string.
(() => {
  const POLL = 3000;
  const CURVES = [["loss", "loss"], ["reward_margin", "margin"], ["reward_accuracy", "accuracy"]];
  const find = (id) => document.getElementById(id);
  const make = (name, about = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(about)) element[key] = value;
    element.append(...children);
    return element;
  };
  const span = (seconds) => {
    if (seconds === null || seconds === undefined) return "";
    const whole = Math.round(seconds), minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}h${two(minutes % 60)}` : `${minutes}m${two(whole % 60)}s`;
  };
  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const number = (value) => Number(value.toPrecision(4)).toString();
  const runs = (count) => `${count} run${count === 1 ? "" : "s"}`;
  const kind = (status) => status.toLowerCase().replace(/[^a-z]/g, "");
  const pill = (status, text) => make("span", { className: `pill ${kind(status)}`, textContent: text });

  const svg = (points, what) => {
    const space = "http://www.w3.org/2000/svg";
    const [first, last] = [points[0][0], points[points.length - 1][0]];
    const values = points.map((point) => point[1]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const image = document.createElementNS(space, "svg");
    image.setAttribute("viewBox", "0 0 100 40");
    image.setAttribute("preserveAspectRatio", "none");
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", `${what} from ${number(values[0])} to ${number(values[values.length - 1])}`);
    const line = document.createElementNS(space, "polyline");
    const place = ([step, value]) => {
      const x = last === first ? 50 : (100 * (step - first)) / (last - first);
      return `${x.toFixed(1)},${(high === low ? 20 : 38 - (36 * (value - low)) / (high - low)).toFixed(1)}`;
    };
    line.setAttribute("points", points.map(place).join(" "));
    image.append(line);
    return image;
  };
  const curve = (points, what) => {
    const value = points.length ? number(points[points.length - 1][1]) : "";
    const caption = make("figcaption", {}, make("span", { textContent: what }), make("b", { textContent: value }));
    return make("figure", {}, caption, points.length > 1 ? svg(points, what) : make("span", { className: "none", textContent: "no step yet" }));
  };
  const bar = (parts) => parts.map(([status, share]) => {
    const part = make("i", { className: kind(status) });
    part.style.width = `${100 * share}%`;
    return part;
  });

  const draw = {
    name: (now) => {
      document.title = `${now.over ? "" : "● "}${now.sweep}`;
      find("name").textContent = now.sweep;
    },
    counts: (now) => {
      find("progress").replaceChildren(...bar(now.counts.map(([status, count]) => [status, count / Math.max(1, now.total)])));
      find("counts").replaceChildren(
        make("span", { className: "pill", textContent: runs(now.total) }),
        ...now.counts.map(([status, count]) => pill(status, `${count} ${status}`)));
    },
    facts: (now) => {
      const cost = now.cost, facts = [["done", `${Math.floor(100 * now.share)} % of the steps`]];
      if (now.seconds_left) facts.push(["left", `about ${span(now.seconds_left)}`]);
      if (now.next_start) facts.push(["next start, expected", clock(now.next_start)]);
      if (cost.planned) facts.push(["planned", cost.planned]);
      facts.push([`spent, ${cost.unit}`, number(Number(cost.spent.toPrecision(3)))]);
      if (cost.expected !== null && !now.over) facts.push([`in all, ${cost.unit}`, `about ${number(Number(cost.expected.toPrecision(2)))}`]);
      find("facts").replaceChildren(...facts.map(([name, text]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: text }))));
      find("notes").replaceChildren(...now.notes.map((text) => make("li", { textContent: text })));
    },
    failures: (now) => {
      const section = find("failures");
      section.hidden = !now.failed.length;
      section.lastElementChild.replaceChildren(...now.failed.map((run) => {
        const parts = [make("h3", {}, pill(run.status, run.status), make("span", { textContent: run.run })), make("p", { textContent: run.reason || "no reason is known" })];
        if (run.traceback) parts.push(make("details", {}, make("summary", { textContent: "the end of its traceback" }), make("pre", { textContent: run.traceback })));
        parts.push(make("code", { textContent: run.command }));
        return make("div", { className: "failure" }, ...parts);
      }), ...(now.failed_left_out ? [make("p", { className: "note", textContent: `and ${now.failed_left_out} more` })] : []));
    },
    running: (now) => {
      const section = find("running");
      section.hidden = !now.running.length;
      section.lastElementChild.replaceChildren(...now.running.map((run) => {
        const step = run.step === null ? run.doing || "preparing" : `step ${run.step} of ${run.max_steps ?? "?"}${run.doing ? `, ${run.doing}` : ""}`;
        const about = [step, run.seconds_left ? `${span(run.seconds_left)} left` : "", run.node, run.reason].filter(Boolean);
        return make("article", {},
          make("h3", { textContent: run.run }),
          make("p", { className: "about" }, ...about.map((text) => make("span", { textContent: text }))),
          make("div", { className: "progress" }, ...bar([[run.status, run.share]])),
          make("div", { className: "curves" }, ...CURVES.map(([key, what]) => curve(run.curves[key], what))));
      }), ...(now.running_left_out ? [make("p", { className: "note", textContent: `and ${now.running_left_out} more` })] : []));
    },
    waiting: (now) => {
      const section = find("waiting");
      section.hidden = !now.waiting.length;
      section.lastElementChild.replaceChildren(make("ul", { className: "waits" },
        ...now.waiting.map(([text, count]) => make("li", { textContent: `${runs(count)}: ${text}` }))));
    },
    grid: (now) => {
      find("grid").hidden = !now.grid.rows.length;
      const head = make("tr", {}, make("th", { textContent: "beta" }), ...now.grid.betas.map((beta) => make("th", { scope: "col", textContent: beta })));
      const rows = now.grid.rows.map((row) => make("tr", {}, make("th", { scope: "row", textContent: row.name }),
        ...row.cells.map((cell) => make("td", {}, ...cell.map(([letter, status, title]) => make("span", { className: `cell ${kind(status)}`, textContent: letter, title }))))));
      find("grid").lastElementChild.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
    },
  };
  const slices = {
    name: (now) => [now.sweep, now.over], counts: (now) => [now.counts, now.total], failures: (now) => now.failed,
    facts: (now) => [now.share, now.seconds_left, now.next_start, now.cost, now.notes, now.over],
    running: (now) => [now.running, now.running_left_out], waiting: (now) => now.waiting, grid: (now) => now.grid,
  };

  // The report, in a frame as high as it is: a newer one takes the place of the one before when it is there.
  let shown = 0, coming = 0;
  const fitted = (frame) => {
    const fit = () => {
      const page = frame.contentDocument?.documentElement;
      if (page) frame.style.height = `${page.getBoundingClientRect().height}px`;
    };
    new ResizeObserver(fit).observe(frame.contentDocument.body);
    fit();
  };
  const show = (version) => {
    coming = version;
    const box = find("report-frame");
    const frame = make("iframe", { src: `report?v=${version}`, title: "The report so far", className: "coming" });
    frame.addEventListener("load", () => {
      for (const old of [...box.children]) if (old !== frame) old.remove();
      frame.className = "";
      shown = version;
      fitted(frame);
    });
    box.append(frame);
  };
  const report = (now) => {
    const { version, making, behind, why } = now.report;
    const is_read = document.activeElement?.tagName === "IFRAME";
    find("report").hidden = false;
    const note = [];
    if (!version) note.push(why ? "" : making ? "It is being made." : "It appears with the first results.");
    else note.push(make("a", { href: "report", target: "_blank", rel: "noopener", textContent: "The report by itself" }), making ? " · being made anew" : behind ? " · there are newer results: it is made anew soon" : "");
    if (why) note.push(` ${why}`);
    if (version && version !== shown && version !== coming) {
      if (shown && is_read) {
        const button = make("button", { type: "button", textContent: "show the newer one" });
        button.addEventListener("click", () => show(version));
        note.push(" · ", button);
      } else show(version);
    }
    find("report-note").replaceChildren(...note.filter((part) => part !== ""));
  };

  let version = "", asked = null, before = {};
  const update = (now) => {
    [version, asked] = [now.version, now.asked];
    for (const [name, slice] of Object.entries(slices)) {
      const text = JSON.stringify(slice(now));
      if (text !== before[name]) draw[name](now);
      before[name] = text;
    }
    report(now);
  };
  const poll = async () => {
    try {
      const answer = await fetch(`now.json?since=${version}`, { cache: "no-store" });
      if (answer.status === 200) update(await answer.json());
      else if (answer.status !== 204) throw new Error(String(answer.status));
      find("age").className = "";
      find("age").textContent = asked ? `as of ${new Date(asked * 1000).toLocaleTimeString()}` : "being looked up";
    } catch (error) {
      find("age").className = "silent";
      find("age").textContent = "no answer any more: has `dashboard` ended?";
    }
    setTimeout(poll, document.hidden ? 5 * POLL : POLL);
  };
  poll();
})();
