/* Asks for something, once: the same key again finds the same answer. */
(function () {
  'use strict';

  var AGAIN_MS = 2000;
  var DONE_MS = 20000;  /* by then the page itself shows it */
  var scope = document.querySelector('[data-asks]');
  var page = document.getElementById('rewrap-page');
  var output = document.getElementById('rewrap-answer');
  var keys = {};

  if (!scope) { return; }

  function newKey() {
    var bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.prototype.map.call(bytes, function (byte) {
      return ('0' + byte.toString(16)).slice(-2);
    }).join('');
  }

  function cookie(name) {
    var found = document.cookie.match('(?:^|; )' + name + '=([^;]*)');
    return found ? decodeURIComponent(found[1]) : '';
  }

  function say(words, style) {
    output.textContent = words;
    output.className = style || '';
  }

  function busy(isBusy) {
    Array.prototype.forEach.call(scope.querySelectorAll('button'), function (button) {
      button.disabled = isBusy;
    });
  }

  function told(status, answer) {
    if (answer.verdict === 'done') {
      say('Done: campaign ' + answer.campaign + ' is ' + answer.state + '.', 'rewrap-good');
      clearTimeout(told.timer);
      told.timer = setTimeout(function () { say(''); }, DONE_MS);
    } else {
      say('Refused: ' + answer.reason + (answer.next_command ? '. Next: ' + answer.next_command : ''),
        'rewrap-bad');
    }
    busy(false);
    page.dispatchEvent(new CustomEvent('rewrap:ask'));
  }

  function follow(key) {
    say('Asked. It waits for a scheduler…', 'text-body-secondary');
    setTimeout(function () {
      fetch(location.origin + scope.dataset.requests.replace('KEY-OF-IT', key),
        { credentials: 'same-origin' })
        .then(function (answer) {
          return answer.json().then(function (doc) {
            if (doc.verdict && doc.verdict !== 'waiting') { told(answer.status, doc); } else { follow(key); }
          });
        })
        .catch(function () { follow(key); });
    }, AGAIN_MS);
  }

  function ask(action, body) {
    var text = JSON.stringify(body);
    var wish = action + text;
    var key = keys[wish] = keys[wish] || newKey();
    busy(true);
    clearTimeout(told.timer);
    say('Asking…', 'text-body-secondary');
    fetch(location.origin + scope.dataset.asks + '/' + action, {
      method: 'POST',
      credentials: 'same-origin',
      headers: {
        'Content-Type': 'application/json',
        'Idempotency-Key': key,
        'X-XSRFToken': cookie('_xsrf')
      },
      body: text
    }).then(function (answer) {
      return answer.json().then(function (doc) {
        if (answer.status === 202) { delete keys[wish]; follow(key); return; }
        if (answer.status !== 503) { delete keys[wish]; }
        told(answer.status, doc);
      });
    }).catch(function (error) {
      say('Not answered (' + error.message + '); ask again.', 'rewrap-bad');
      busy(false);
    });
  }

  Array.prototype.forEach.call(scope.querySelectorAll('[data-action]'), function (button) {
    button.addEventListener('click', function () {
      var action = button.dataset.action;
      if (action === 'cancel' && !window.confirm('End this campaign for good?')) { return; }
      ask(action, {});
    });
  });

  page.addEventListener('rewrap:shown', function (event) {
    if (!event.detail.may) { return; }
    Array.prototype.forEach.call(scope.querySelectorAll('[data-action]'), function (button) {
      button.hidden = event.detail.may.indexOf(button.dataset.action) < 0;
    });
  });

  var form = document.getElementById('rewrap-start');
  if (form) {
    form.addEventListener('submit', function (event) {
      event.preventDefault();
      var body = { kind: form.kind.value };
      if (form.prefix.value) { body.prefix = form.prefix.value; }
      if (form.to.value) { body.to = form.to.value; }
      if (form.max_rate.value) { body.max_rate = Number(form.max_rate.value); }
      ask('start', body);
    });
  }
}());
