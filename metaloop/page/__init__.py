"""A page on which adaptation can be seen: `metaloop serve RUN`.

asked.py says what may be asked, shown.py answers it with the learners, app.py is the server, making.py makes predictors
into pages; page.html, page.css and page.js are the page, as they are sent.
"""
