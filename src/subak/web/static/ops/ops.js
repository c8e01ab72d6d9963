/**
 * The operations page. The server renders it whole; this keeps it fresh, draws the charts and makes changes.
 *
 * Whatever comes from the gateway is put in place as nodes that its own renderer escaped, or as text.
 */

import { listenForChanges } from "./changes.js";
import { Charts } from "./charts.js";
import { Freshness } from "./freshness.js";
import { listenForAudit } from "./audit.js";

const charts = new Charts(document.getElementById("charts"));
const freshness = new Freshness(() => charts.update());
const refresh = () => freshness.look();

for (const words of document.querySelectorAll(".without-script")) words.hidden = true;
for (const fieldset of document.querySelectorAll("[data-controls]")) fieldset.disabled = false;
listenForChanges(refresh);
listenForAudit();
freshness.start();
