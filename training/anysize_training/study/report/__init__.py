"""The report on a family: experiments, what each says of a claim of the paper, and the page that shows them."""
