/* Keeps a page up to date. Everything it shows goes in as text, never as markup. */
(function () {
  'use strict';

  var EVERY_MS = 2000;
  var SVG = 'http://www.w3.org/2000/svg';
  var page = document.getElementById('rewrap-page');
  var drawn = {};
  var timer = null;
  var isAsking = false;

  function each(scope, selector, use) {
    Array.prototype.forEach.call(scope.querySelectorAll(selector), use);
  }

  function setText(element, text) {
    if (element.textContent !== text) { element.textContent = text; }
  }

  /* What a campaign's elements show, in a table's row or in the whole page. */
  function fill(scope, doc) {
    each(scope, '[data-f]', function (element) {
      if (element.dataset.f in doc.shown) { setText(element, doc.shown[element.dataset.f]); }
    });
    if (!('bars' in doc)) { return; }
    each(scope, '[data-look]', function (element) {
      element.className = 'badge rewrap-badge ' + doc.look;
    });
    each(scope, '[data-progress]', function (element) {
      element.setAttribute('aria-valuenow', doc.percent);
    });
    each(scope, '[data-bar]', function (element) {
      element.style.width = doc.bars[element.dataset.bar] + '%';
    });
  }

  function fillList(doc) {
    var body = document.getElementById('rewrap-campaigns');
    var blank = document.getElementById('rewrap-row').content.querySelector('tr');
    var rows = {};
    each(body, 'tr', function (row) { rows[row.dataset.campaign] = row; });
    doc.campaigns.forEach(function (campaign, place) {
      var row = rows[campaign.campaign];
      if (!row) {
        row = document.importNode(blank, true);
        row.dataset.campaign = campaign.campaign;
        row.querySelector('[data-link]').href =
          location.origin + location.pathname + '/' + campaign.campaign;
      }
      delete rows[campaign.campaign];
      fill(row, campaign);
      if (body.children[place] !== row) { body.insertBefore(row, body.children[place] || null); }
    });
    Object.keys(rows).forEach(function (id) { rows[id].remove(); });
    document.getElementById('rewrap-none').hidden = doc.campaigns.length > 0 || !!doc.trouble;
  }

  function fillTable(name, lines) {
    var text = JSON.stringify(lines);
    var body = document.querySelector('[data-table="' + name + '"]');
    if (!body || drawn[name] === text) { return; }
    drawn[name] = text;
    body.replaceChildren.apply(body, lines.map(function (cells) {
      var row = document.createElement('tr');
      cells.forEach(function (cell) {
        var place = row.appendChild(document.createElement('td'));
        if (typeof cell === 'string') { place.textContent = cell; return; }
        place = place.appendChild(document.createElement('a'));
        place.textContent = cell.text;
        place.setAttribute('href', cell.href);
      });
      return row;
    }));
    document.querySelector('[data-none="' + name + '"]').hidden = lines.length > 0;
    if (lines.length) { body.closest('section').hidden = false; }
  }

  function svg(parent, name, attributes, text) {
    var element = document.createElementNS(SVG, name);
    Object.keys(attributes).forEach(function (key) { element.setAttribute(key, attributes[key]); });
    if (text) { element.textContent = text; }
    return parent.appendChild(element);
  }

  function plot(series) {
    var place = document.querySelector('[data-plot]');
    var text = JSON.stringify(series);
    if (!place || drawn.plot === text) { return; }
    drawn.plot = text;
    place.replaceChildren();
    if (!series) { place.textContent = 'Nothing was done yet.'; return; }
    var width = 600, height = 190, left = 4, bottom = 166, top = 22;
    var most = Math.max.apply(null, series.rates) || 1;
    var step = (width - 2 * left) / (series.rates.length - 1);
    var points = series.rates.map(function (rate, n) {
      return (left + n * step).toFixed(1) + ',' + (bottom - rate / most * (bottom - top)).toFixed(1);
    });
    var image = svg(place, 'svg', {
      'class': 'rewrap-plot', viewBox: '0 0 ' + width + ' ' + height, role: 'img',
      'aria-label': 'Blobs a second over time, at most ' + series.top
    });
    svg(image, 'line', { 'class': 'axis', x1: left, x2: width - left, y1: bottom, y2: bottom });
    svg(image, 'line', { 'class': 'axis', x1: left, x2: width - left, y1: top, y2: top });
    svg(image, 'polygon', {
      'class': 'area',
      points: [left + ',' + bottom].concat(points, (width - left) + ',' + bottom).join(' ')
    });
    svg(image, 'polyline', { 'class': 'line', points: points.join(' ') });
    svg(image, 'text', { x: left, y: top - 8 }, series.top);
    svg(image, 'text', { x: left, y: height - 6 }, series.from);
    svg(image, 'text', { x: width - left, y: height - 6, 'text-anchor': 'end' }, series.to);
  }

  function say(isLive, words) {
    setText(document.getElementById('rewrap-live'), words);
    document.getElementById('rewrap-dot').className =
      'status-dot ' + (isLive ? 'status-dot-live' : 'status-dot-error');
  }

  function note(trouble) {
    var place = document.getElementById('rewrap-note');
    setText(place, trouble || '');
    place.hidden = !trouble;
  }

  function show(doc) {
    note(doc.trouble);
    say(!doc.trouble, doc.trouble ? 'Not up to date' : 'Live');
    if (doc.campaigns) { fillList(doc); }
    if (doc.shown) { fill(page, doc); }
    if (doc.tables) {
      Object.keys(doc.tables).forEach(function (name) { fillTable(name, doc.tables[name]); });
      if ('plot' in doc) { plot(doc.plot); }
    }
    page.dispatchEvent(new CustomEvent('rewrap:shown', { detail: doc }));
  }

  function ask() {
    if (isAsking || document.hidden) { return; }
    isAsking = true;
    /* With the origin: a page opened as http://user:password@host may not fetch a bare path. */
    fetch(location.origin + page.dataset.source, { credentials: 'same-origin' })
      .then(function (answer) {
        if (!answer.ok && answer.status !== 503) { throw new Error(answer.status); }
        return answer.json();
      })
      .then(show)
      .catch(function (error) { say(false, 'Flower does not answer (' + error.message + ')'); })
      .finally(function () { isAsking = false; });
  }

  function listen() {
    clearInterval(timer);
    if (document.hidden) { return; }
    ask();
    timer = setInterval(ask, EVERY_MS);
  }

  if (page) {
    document.addEventListener('visibilitychange', listen);
    page.addEventListener('rewrap:ask', ask);
    listen();
  }
}());
